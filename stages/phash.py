"""Fingerprints how a picture looks, so that `duplicates` finds it again resized or compressed anew.

Rejects nothing. The hash is the DCT one of the ImageHash package (`imagehash.phash`), bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.records import Sample, SampleKind
from curation.stage import Column, Media, Stage, StageConfig, View

NUM_FRAMES = 3
"""Frames of a clip that are hashed."""
SIDE = 32
"""Pixels to which a picture is reduced."""
LOW = 8
"""Frequencies that count, in each direction."""


class PhashConfig(StageConfig):
    """There is nothing to set: hashes of different kinds could not be compared."""


class PhashStage(Stage[PhashConfig]):
    """Hashes an image, or three frames of a clip."""

    name = "phash"
    columns = {
        "phash": Column(
            pa.binary(),
            "8 bytes per frame: whether each of the 64 lowest frequencies is above their median, row by "
            "row, highest bit first.",
        ),
    }
    Config = PhashConfig

    def view(self, kind: SampleKind) -> View:
        is_image = kind == "image"
        return View(count=1 if is_image else NUM_FRAMES, short_side=256, halved=is_image)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [{"phash": b"".join(_phash(frame) for frame in item.pixels)} for item in media]


def _phash(frame: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    gray = Image.fromarray(frame).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    cosines = _cosines()
    low = cosines @ np.asarray(gray, np.float64) @ cosines.T
    return np.packbits(low > np.median(low)).tobytes()


@functools.cache
def _cosines() -> NDArray[np.float64]:
    """The first rows of an unnormalised DCT-II: 2 cos(pi k (2 n + 1) / 2 N)."""
    frequency, place = np.arange(LOW)[:, np.newaxis], np.arange(SIDE)
    cosines: NDArray[np.float64] = 2 * np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))
    return cosines
