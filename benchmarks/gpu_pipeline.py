"""The whole pipeline on a GPU: how busy it keeps the card, and what each pass waits for.

Part of `python -m benchmarks.gpu`, which prints `lines`. Weights are random, in full size; captions are those
of the stand-in, so that the tokenizer alone decides how long the second pass takes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from benchmarks.decode_once import write_video
from benchmarks.gpu_encoder import pictures


@dataclass(frozen=True)
class Amount:
    """What is run.

    Attributes:
        num_videos: Of ten seconds, 1280 x 720.
        num_images: JPEGs.
        image_size: Their height and width.
        area: Pixels of a frame that is tokenized.
        run: Settings of the run.
    """

    num_videos: int
    num_images: int
    image_size: tuple[int, int]
    area: int
    run: Mapping[str, Any]


FULL = Amount(64, 512, (1024, 1536), 512 * 512, {})
TINY = Amount(2, 4, (128, 192), 4096, {"workers": 2, "model_workers": 1})


def lines(device: str, *, tiny: bool) -> Iterator[str]:
    """Lines of Markdown: a row for each kind of workers, then one for each step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        amount = TINY if tiny else FULL
        write_media(folder / "in", amount)
        weights = STAND_INS if tiny else write_weights(folder)
        record = run(folder, settings(folder, amount, weights, device))
    yield "| workers | number | loading s | busy | waiting | idle | calls | samples a call | peak GB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for pool in record["pools"]:
        yield _pool_row(pool)
    yield ""
    yield "| step | rows | failed | seconds | rows/s |"
    yield "|---|---|---|---|---|"
    for step in record["steps"]:
        rate = step["rows"] / step["seconds"] if step["seconds"] else 0.0
        yield (f"| {step['step']} | {step['rows']} | {step['failed']} | {step['seconds']:.1f} | {rate:.1f} |")


def _pool_row(pool: Mapping[str, Any]) -> str:
    waited_s = 0.0 if pool["bytes_sent"] else pool["waited_s"]
    all_s = pool["load_s"] + pool["busy_s"] + waited_s + pool["idle_s"] or 1.0
    shares = " | ".join(f"{seconds / all_s:.0%}" for seconds in (pool["busy_s"], waited_s, pool["idle_s"]))
    per_call = pool["num_samples"] / pool["num_calls"] if pool["num_calls"] else 0.0
    return (
        f"| {pool['pool']} | {pool['num_workers']} | {pool['load_s']:.1f} | {shares} | {pool['num_calls']} "
        f"| {per_call:.1f} | {pool['peak_memory_bytes'] / 1e9:.1f} |"
    )


def write_media(folder: Path, amount: Amount) -> None:
    """Videos of three scenes, and pictures; each kind has the same content."""
    folder.mkdir()
    write_video(folder / "0.mp4", num_scenes=3)
    for number in range(1, amount.num_videos):
        shutil.copy(folder / "0.mp4", folder / f"{number}.mp4")
    (frame,) = pictures(1, *amount.image_size, seed=0)
    Image.fromarray(frame).save(folder / "0.jpg", quality=90)
    for number in range(1, amount.num_images):
        shutil.copy(folder / "0.jpg", folder / f"{number}.jpg")


STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "aesthetic": {"weights": "stand-in", "head": "stand-in", "head_sha256": None},
    "tokens": {"weights": "stand-in"},
}


def write_weights(folder: Path) -> dict[str, dict[str, Any]]:
    """Random weights of full size: CLIP ViT-L/14, a linear head, Emu3's tokenizer."""
    import open_clip
    from safetensors.torch import save_file
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    clip = open_clip.create_model("ViT-L-14-quickgelu", pretrained=None)
    save_file(clip.state_dict(), folder / "clip.safetensors")
    torch.save(torch.nn.Linear(768, 1).state_dict(), folder / "head.pth")
    Emu3VQVAE(Emu3VQVAEConfig()).save_pretrained(folder / "tokenizer")
    aesthetic = {
        "weights": str(folder / "clip.safetensors"),
        "head": str(folder / "head.pth"),
        "head_sha256": None,
    }
    return {"aesthetic": aesthetic, "tokens": {"weights": str(folder / "tokenizer"), "precision": "bf16"}}


def settings(
    folder: Path, amount: Amount, weights: Mapping[str, Mapping[str, Any]], device: str
) -> dict[str, Any]:
    """A configuration that keeps every sample, whatever random weights say."""
    aesthetic = {**weights["aesthetic"], "min_score": None}
    return {
        "name": "gpu",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "device": device,
        "stand_ins": "allow",
        "images": {
            "filters": ["resolution", "aesthetic"],
            "resolution": {"min_width": 64, "min_height": 64},
            "aesthetic": aesthetic,
        },
        "videos": {
            "filters": ["flow", "aesthetic"],
            "flow": {"min_score": None, "max_score": None},
            "aesthetic": aesthetic,
        },
        "captions": {"engine": "stand-in"},
        "tokens": {**weights["tokens"], "area": amount.area},
        "run": {"report_samples": 0, **amount.run},
    }


def run(folder: Path, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run the pipeline; what its last work was."""
    (folder / "c.yaml").write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "curation", "run", "-c", str(folder / "c.yaml")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    record: Mapping[str, Any] = json.loads((folder / "out/run.json").read_text())["last_work"]
    return record
