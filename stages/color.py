"""Drops monochrome pictures, as Emu3 does for images that miss the aesthetic threshold.

Colorfulness, not HSV saturation, decides: saturation is high on dark frames that look black.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from curation.records import Sample, SampleKind
from curation.stage import KeepMin, Media, Stage, StageConfig, View


class ColorConfig(StageConfig):
    """Settings of the color filter."""

    min_colorfulness: Annotated[float, KeepMin("colorfulness"), Field(ge=0, le=200)] | None = 5.0
    """Least colorfulness; gray is 0, faded colors about 10, a vivid photo 60 and more."""


class ColorStage(Stage[ColorConfig]):
    """Measures how much color there is; of a clip, the mean over three frames.

    Columns:
        colorfulness: Hasler and Süsstrunk (2003), "Measuring colorfulness in natural images"; 0 and up.
        channel_spread: Largest max(R, G, B) - min(R, G, B) of any pixel, 0..255; 0 for exact gray.
        mean_luma: Mean brightness, 0..255 (ITU-R BT.601 weights).
    """

    name = "color"
    columns = {"colorfulness": pa.float32(), "channel_spread": pa.int32(), "mean_luma": pa.float32()}
    Config = ColorConfig

    def view(self, kind: SampleKind) -> View:
        return View() if kind == "image" else View(count=3, short_side=256)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [_color_stats(item.pixels) for item in media]


def _color_stats(frames: NDArray[np.uint8]) -> dict[str, Any]:
    return {
        "colorfulness": float(np.mean([colorfulness(frame) for frame in frames])),
        "channel_spread": max(int(np.ptp(frame, axis=-1).max()) for frame in frames),
        "mean_luma": float(np.mean([(frame @ np.array([0.299, 0.587, 0.114])).mean() for frame in frames])),
    }


def colorfulness(frame: NDArray[np.uint8]) -> float:
    """Hasler-Süsstrunk colorfulness of a [H, W, 3] RGB frame."""
    red, green, blue = np.moveaxis(frame.astype(np.float32), -1, 0)
    red_green = red - green
    yellow_blue = (red + green) / 2 - blue
    spread = np.hypot(red_green.std(dtype=np.float64), yellow_blue.std(dtype=np.float64))
    offset = np.hypot(red_green.mean(dtype=np.float64), yellow_blue.mean(dtype=np.float64))
    return float(spread + 0.3 * offset)
