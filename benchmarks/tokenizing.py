"""One way of tokenizing in a process of its own: python -m benchmarks.tokenizing WAY FOLDER NUM_FRAMES SIZE

Prints CPU seconds, the process's peak memory and the codes as JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIZE_PX = 256
WAYS = ("reference", "ours", "bf16")


@cache
def full_size_model() -> tempfile.TemporaryDirectory[str]:
    """A folder with Emu3's tokenizer in its full size, of seeded random weights."""
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    folder = tempfile.TemporaryDirectory()
    torch.manual_seed(0)
    Emu3VQVAE(Emu3VQVAEConfig()).save_pretrained(folder.name)
    return folder


def compare(num_frames: int, *ways: str) -> dict[str, dict[str, Any]]:
    """What each way took; one line for each is printed."""
    found = {}
    for way in ways:
        arguments = [way, full_size_model().name, str(num_frames), str(SIZE_PX)]
        command = [sys.executable, "-m", "benchmarks.tokenizing", *arguments]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rate = len(found[way]["codes"]) / found[way]["seconds"]
        same = np.mean(np.equal(found[way]["codes"], found[ways[0]]["codes"]))
        print(
            f"      {num_frames} frames {way}: {rate:.1f} codes/s, peak {found[way]['peak_mb']:.0f} MB, "
            f"{same:.2%} of the codes of {ways[0]}"
        )
    return found


def main(way: str, folder: Path, num_frames: int, size_px: int) -> None:
    torch.set_num_threads(1)  # as in a worker; threads that wait for each other count as CPU time
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, size_px // 8, size_px // 8, 3))
    # Blocks of color: a picture has areas, noise has none.
    frames = frames.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    encode = _reference(folder) if way == "reference" else _ours(folder, way)
    started = time.process_time()
    codes = encode(frames)
    spent_s = time.process_time() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": spent_s, "peak_mb": peak_mb, "codes": codes.reshape(-1).tolist()}))


def _reference(folder: Path) -> Any:
    """transformers: `encode` for an image; of a clip, whose grid that would crop, the parts that it calls."""
    from transformers import Emu3VQVAE

    model = Emu3VQVAE.from_pretrained(folder)

    @torch.inference_mode()
    def encode(frames: Any) -> Any:
        # Contiguous, as its own image processor gives them.
        pixels = (torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5) / 0.5
        if len(frames) == 1:
            return model.encode(pixels, torch.tensor([pixels.shape[-2:]])).image_tokens[0].numpy()
        hidden = model.quant_conv(model.encoder(pixels[None]).permute(0, 2, 1, 3, 4))
        return model.quantize(hidden.permute(0, 2, 1, 3, 4))[0].numpy()

    return encode


def _ours(folder: Path, way: str) -> Any:
    from curation.tokenize_shards.vision.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder, "cpu", "bf16" if way == "bf16" else "fp32")
    return lambda frames: tokenizer.encode([frames])[0]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
