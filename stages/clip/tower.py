"""CLIP's image tower: what embeds the squares of `stages/clip/squares.py`, on a GPU many at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation.pipeline.precision import Precision, computing
from curation.stages.clip.squares import STAND_IN_PX

if TYPE_CHECKING:
    import torch

MAX_BATCH = 128
"""Squares in a GPU's batch. ViT-L/14 embeds 51 a second one by one, 1,557 in batches of 64, 1,773 in batches
of 512 (bf16, H200); 128 hold the frames of 24 clips, and take about as much memory as the weights."""


class ImageTower:
    """Embeds squares.

    What it takes of the GPU's memory has a bound of its own. Where that is too much beside others, the core
    halves the batch of samples, and then the number of workers on the card: here nothing is tried again.
    """

    def __init__(
        self, clip: torch.nn.Module, device: str, precision: Precision, batch_size: int | None = None
    ) -> None:
        """`clip` is one of open_clip's models, of which the image tower moves to the device.

        `batch_size` is how many squares are embedded at once; None: what suits the device.
        """
        import torch

        self._clip = clip.eval()
        self._clip.visual.to(device)
        self._device = device
        self._precision = precision
        # On a CPU a batch is no faster, and a score must not depend on its neighbors in one.
        self._batch_size = batch_size or (MAX_BATCH if device == "cuda" else 1)
        # As tensors, since a GPU divides by a number of Python's by multiplying, and errs in the last bit.
        self._white = torch.tensor(255.0, device=device)
        self._mean, self._std = (_per_channel(values, device) for values in _mean_and_std())

    def embed(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """L2-normalised embeddings [N, D] of [N, side, side, 3] uint8 RGB."""
        import torch

        with computing(self._precision, self._device):
            parts = [
                self._clip.encode_image(self.normalized(squares[start : start + self._batch_size]))  # type: ignore[operator]
                for start in range(0, len(squares), self._batch_size)
            ]
            embeddings = torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1)
        return np.asarray(embeddings.cpu().numpy(), np.float32)

    def normalized(self, squares: NDArray[np.uint8]) -> torch.Tensor:
        """[N, 3, side, side] float32 on the device, to the last bit what open_clip's transform gives."""
        import torch

        pixels = torch.from_numpy(squares)
        if self._device == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        pixels = pixels.permute(0, 3, 1, 2).contiguous().float()
        return pixels.div_(self._white).sub_(self._mean).div_(self._std)


def _mean_and_std() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """OpenAI's: those of the weights that LAION's heads and HPSv2 were trained on."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return OPENAI_DATASET_MEAN, OPENAI_DATASET_STD


def _per_channel(values: tuple[float, ...], device: str) -> torch.Tensor:
    import torch

    return torch.tensor(values, device=device).view(-1, 1, 1)


def load_clip(architecture: str, weights: Path | None) -> torch.nn.Module:
    """An open_clip model with the weights of a file; None leaves it untrained."""
    import open_clip

    clip: torch.nn.Module = open_clip.create_model(
        architecture, pretrained=None if weights is None else str(weights)
    )
    return clip


def stand_in_clip(text: Mapping[str, Any], *, quick_gelu: bool = False) -> torch.nn.Module:
    """A tiny, untrained CLIP whose weights come from torch's dice; `text` are settings of its text tower."""
    from open_clip import CLIP

    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 32, "image_size": STAND_IN_PX}
    clip: torch.nn.Module = CLIP(
        embed_dim=64,
        vision_cfg=vision,
        text_cfg={"width": 32, "heads": 1, "layers": 1, **text},
        quick_gelu=quick_gelu,
    )
    return clip
