"""What a vision tokenizer is: frames to a grid of codebook indices, and back.

Documents and shards are laid out for Emu3's: 4 frames x 8 x 8 pixels to a code, 32,768 codes. Another
tokenizer of that layout is named in the configuration as `module:function`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from curation.errors import TokenizeError
from curation.registry import load

SPATIAL_FACTOR = 8
TEMPORAL_FACTOR = 4
CODEBOOK_SIZE = 32_768

Precision = Literal["fp32", "tf32x3", "tf32", "bf16"]
"""Of the encoder; nearest codes are searched in float32 always. The two TF32 ones are a GPU's."""

TOKENIZERS = {"emu3": "curation.tokenize_shards.vision.emu3:load_emu3"}
"""Kind -> what loads it."""


class VisionTokenizer(Protocol):
    """Frames to codes and back."""

    def encode(self, batch: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint16]]:
        """The token grid [T', H/8, W/8] of each item, [T, H, W, 3] uint8 RGB, all of one shape.

        One frame is an image: T' = 1. Otherwise T must be a multiple of 4: T' = T/4. The codes of an
        item don't depend on what else is in the batch.

        Raises:
            TokenizeError: the frames are not of that kind.
        """
        ...

    def decode(self, grid: NDArray[np.uint16], *, is_image: bool) -> NDArray[np.uint8]:
        """The frames that a [T', H', W'] grid stands for: [1, 8H', 8W', 3] of an image, else [4T', ...].

        The first frames of a clip depend on nothing that comes later, so part of a grid may be decoded.
        """
        ...


class Loader(Protocol):
    """Builds a tokenizer; named in `TOKENIZERS` or in the configuration."""

    def __call__(
        self, folder: Path | None, device: str, precision: Precision, *, decodes: bool
    ) -> VisionTokenizer:
        """From a folder of weights, or the untrained stand-in without one; `decodes` if that is needed."""
        ...


def load_tokenizer(
    folder: Path | None,
    device: str,
    precision: Precision = "fp32",
    *,
    kind: str = "emu3",
    decodes: bool = False,
) -> VisionTokenizer:
    """The tokenizer of a kind, from a folder of weights, or untrained without one.

    Raises:
        ConfigError: there is no such kind, or the folder holds another model.
    """
    loader: Loader = load(TOKENIZERS.get(kind, kind))
    return loader(folder, device, precision, decodes=decodes)


def check_batch(batch: Sequence[NDArray[np.uint8]]) -> None:
    """Make sure that a batch is what tokenizers take.

    Raises:
        TokenizeError: not uint8 RGB (so NaN never comes in), of several shapes, or of sides and lengths
            that are no multiples of the factors.
    """
    for frames in batch:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise TokenizeError(
                f"frames are [T, H, W, 3] uint8 RGB, these are {list(frames.shape)} {frames.dtype}"
            )
        if frames.shape != batch[0].shape:
            raise TokenizeError("the items of a batch have one shape")
        number, height, width = frames.shape[:3]
        if not height or not width or height % SPATIAL_FACTOR or width % SPATIAL_FACTOR:
            raise TokenizeError(f"{width}x{height} are not multiples of {SPATIAL_FACTOR}")
        if number != 1 and (not number or number % TEMPORAL_FACTOR):
            raise TokenizeError(f"{number} frames are not a multiple of {TEMPORAL_FACTOR}")
