"""What this project does on a GPU, on whatever card is here: python -m benchmarks.gpu [--tiny]

Prints card and versions, then tables: of the vision tokenizer speed, memory and exactness of each precision,
beside transformers' and the goals; of the filters speed by batch size and precision; of a whole run how busy
each kind of worker was. It takes some minutes.
`--tiny` runs the same lines on a CPU, to see that they run; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess

import torch
import transformers

from benchmarks import gpu_encoder, gpu_pipeline, gpu_stages

PARTS = {"Vision tokenizer": gpu_encoder, "Filters": gpu_stages, "Pipeline": gpu_pipeline}
"""Title -> module with `lines(device, tiny=...)`, which gives Markdown line by line."""


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
    if tiny:
        print("tiny settings: the figures mean nothing")
    for title, part in PARTS.items():
        print(f"\n## {title}\n")
        for line in part.lines(device, tiny=tiny):
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


if __name__ == "__main__":
    main()
