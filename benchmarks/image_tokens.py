"""An image tokenized by transformers' own encode, over tokenized with its one frame encoded once."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.measure import cpu_ratio
from tokenize_shards.vision import stand_in_tokenizer


def ratio() -> float:
    """CPU time for a 256 x 256 image with the tiny stand-in of the same architecture."""
    tokenizer = stand_in_tokenizer("cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    values = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5

    def theirs() -> None:
        with torch.inference_mode():
            tokenizer.model.encode(values, torch.tensor([[256, 256]]))

    return cpu_ratio(theirs, lambda: tokenizer.encode(pixels))
