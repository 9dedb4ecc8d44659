"""What this project does on a GPU, on whatever card is here: python -m benchmarks.gpu [--tiny]

Prints card and versions, then two tables. Of the filters' models: speed, memory and exactness by batch size
and precision. Of the vision tokenizer: the same of each precision, beside transformers' and the goals. A few
minutes; docs/decisions.md holds what it said. `--tiny` runs the same lines on a CPU, to see that they run:
its figures mean nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Iterable

import torch
import transformers

from benchmarks import gpu_stages
from benchmarks.gpu_encoder import GOAL_PEAK_GB, GOALS, Measured, full_scale, run, tiny_scale


def main(arguments: list[str] | None = None) -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny models, on a CPU too")
    tiny = parser.parse_args(arguments).tiny
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        parser.error("no CUDA device here; --tiny runs on a CPU")
    for line in machine(device):
        print(line)
    remark = " (tiny: the figures mean nothing)" if tiny else ""
    print(f"\n## Filters{remark}\n")
    for line in gpu_stages.lines(device, tiny=tiny):
        print(line, flush=True)
    print(f"\n## Vision tokenizer{remark}\n")
    for line in encoder_table(run(device, tiny_scale() if tiny else full_scale()), with_goals=not tiny):
        print(line, flush=True)


def machine(device: str) -> list[str]:
    """Card, driver and versions."""
    versions = (
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, transformers {transformers.__version__}"
    )
    if device == "cpu":
        return ["no GPU", versions]
    card = torch.cuda.get_device_properties(0)
    memory = f"{card.total_memory / 1e9:.0f} GB, {card.multi_processor_count} multiprocessors"
    return [
        f"{card.name}, {memory}, driver {_driver()}",
        f"{versions}, cuDNN {torch.backends.cudnn.version()}",
    ]


def _driver() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return "unknown"
    asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.partition("\n")[0]


def encoder_table(rows: Iterable[Measured | str], *, with_goals: bool) -> Iterable[str]:
    """Lines of Markdown, one for each row as it comes."""
    yield "| path | samples | frames/s | TFLOP/s | peak GB | codes equal to float64 | first call s | goal |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if isinstance(row, str):
            yield f"| {row} | | | | | | | |"
            continue
        equal = "" if row.equal is None else f"{row.equal:.2%}"
        yield (
            f"| {row.path} | {row.kind} | {row.frames_per_s:.1f} | {row.tflops:.1f} | {row.peak_gb:.2f} "
            f"| {equal} | {row.first_s:.1f} | {goal(row) if with_goals else ''} |"
        )


def goal(row: Measured) -> str:
    """The goal of a row, and whether it is reached."""
    if row.path not in GOALS or row.kind != "clip 512x512":
        return ""
    reached = row.frames_per_s >= GOALS[row.path] and row.peak_gb <= GOAL_PEAK_GB
    return f">= {GOALS[row.path]}, <= {GOAL_PEAK_GB:g} GB: {'reached' if reached else 'MISSED'}"


if __name__ == "__main__":
    main()
