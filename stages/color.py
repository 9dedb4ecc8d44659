"""Drops monochrome pictures, as Emu3 does for images that miss the aesthetic threshold.

Colorfulness, not HSV saturation, decides: saturation is high on dark frames that look black. A sepia
or otherwise tinted gray picture is colorful by that measure, so a second one leaves the tint out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from curation.records import Sample, SampleKind
from curation.stage import Column, KeepMin, Media, Stage, StageConfig, View

_STRIP_PIXELS = 1 << 16
"""Pixels that are looked at together."""
LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601 weights of red, green and blue."""
UNTINTED_SHORT_SIDE = 64
"""Pixels; small enough that the coarse chroma of JPEG follows its luma."""
LUMA_BINS = 32
"""Levels of brightness that count as the same."""


class ColorConfig(StageConfig):
    """Settings of the color filter."""

    min_colorfulness: Annotated[float, KeepMin("colorfulness"), Field(ge=0, le=200)] | None = 5.0
    """Least colorfulness; gray is 0, faded colors about 10, a vivid photo 60 and more."""
    min_untinted_colorfulness: (
        Annotated[float, KeepMin("untinted_colorfulness"), Field(ge=0, le=200)] | None
    ) = 6.0
    """Least colorfulness without a tint; a tinted gray photo has up to 6, most color photos over 10."""
    image_short_side: Annotated[int, Field(ge=UNTINTED_SHORT_SIDE)] | None = None
    """Short side in pixels at which images are looked at; null: as they are."""


class ColorStage(Stage[ColorConfig]):
    """Measures how much color there is; of a clip, the mean over three frames."""

    name = "color"
    version = 2
    columns = {
        "colorfulness": Column(
            pa.float32(),
            'Hasler and Süsstrunk (2003), "Measuring colorfulness in natural images"; 0 and up.',
        ),
        "untinted_colorfulness": Column(
            pa.float32(),
            "What colors differ by at the same brightness: spread of the opponent channels around their "
            "mean at each luma, at a short side of 64 pixels; 0 and up.",
        ),
        "channel_spread": Column(
            pa.int32(),
            "Largest max(R, G, B) - min(R, G, B) of any pixel, 0..255; 0 for exact gray.",
        ),
        "mean_luma": Column(pa.float32(), "Mean brightness, 0..255 (ITU-R BT.601 weights)."),
    }
    Config = ColorConfig

    def view(self, kind: SampleKind) -> View:
        if kind == "image":
            return View(short_side=self.config.image_short_side, halved=True)
        return View(count=3, short_side=256)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [_color_stats(item.pixels, item.shrunk(UNTINTED_SHORT_SIDE)) for item in media]


def _color_stats(frames: NDArray[np.uint8], small: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """`small` are the frames at a short side of `UNTINTED_SHORT_SIDE`."""
    sums = [_sums(frame) for frame in frames]
    return {
        "colorfulness": float(np.mean([_colorfulness(frame) for frame in sums])),
        "untinted_colorfulness": float(np.mean([_untinted_colorfulness(frame) for frame in small])),
        "channel_spread": max(frame.channel_spread for frame in sums),
        "mean_luma": float(np.mean([np.dot(frame.means, LUMA) for frame in sums])),
    }


def colorfulness(frame: NDArray[np.uint8]) -> float:
    """Hasler-Süsstrunk colorfulness of a [H, W, 3] RGB frame."""
    return _colorfulness(_sums(frame))


@dataclass(frozen=True, slots=True)
class _Sums:
    """What a frame's numbers follow from, over all pixels.

    Attributes:
        means: Of red, green, blue.
        square_rg, square_rb, square_gb: Mean squared differences of two channels.
        channel_spread: Largest difference of a pixel's largest and least channel.
    """

    means: tuple[float, float, float]
    square_rg: float
    square_rb: float
    square_gb: float
    channel_spread: int


def _sums(frame: NDArray[np.uint8]) -> _Sums:
    """One pass over a frame, a few rows at a time, which stay in the cache."""
    import cv2

    height, width = frame.shape[:2]
    num_rows = max(1, _STRIP_PIXELS // width)
    squares, spread = np.zeros(3), 0
    for top in range(0, height, num_rows):
        red, green, blue = cv2.split(frame[top : top + num_rows])
        pairs = ((red, green), (red, blue), (green, blue))
        squares += [cv2.norm(one, other, cv2.NORM_L2SQR) for one, other in pairs]
        spread = max(spread, *(int(cv2.norm(one, other, cv2.NORM_INF)) for one, other in pairs))
    mean_red, mean_green, mean_blue, _ = cv2.mean(frame)
    square_rg, square_rb, square_gb = (float(square) / (height * width) for square in squares)
    return _Sums((mean_red, mean_green, mean_blue), square_rg, square_rb, square_gb, spread)


def _colorfulness(sums: _Sums) -> float:
    """Of the opponent channels r - g and (r + g) / 2 - b: their spread, and 0.3 of their offset from gray."""
    red, green, blue = sums.means
    mean_rg, mean_yb = red - green, (red + green) / 2 - blue
    # (r + g - 2b)^2 = 2 (r - b)^2 + 2 (g - b)^2 - (r - g)^2.
    square_yb = (2 * sums.square_rb + 2 * sums.square_gb - sums.square_rg) / 4
    variance = sums.square_rg - mean_rg**2 + square_yb - mean_yb**2
    return float(np.sqrt(max(0.0, variance)) + 0.3 * np.hypot(mean_rg, mean_yb))


def _untinted_colorfulness(small: NDArray[np.uint8]) -> float:
    """Spread of the opponent channels of a small [H, W, 3] RGB frame around their mean at each luma.

    A tint, whether sepia, duotone or of one hue, makes color a function of luma; then nothing is left.
    """
    pixels = small.reshape(-1, 3).astype(np.float64)
    level = np.minimum(pixels @ LUMA * (LUMA_BINS / 256), LUMA_BINS - 1).astype(np.int64)
    red, green, blue = pixels.T
    variances = [_variance_within(level, channel) for channel in (red - green, (red + green) / 2 - blue)]
    return float(np.sqrt(sum(variances)))


def _variance_within(level: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    """Mean squared distance from the mean of the pixels of the same level."""
    counts = np.maximum(np.bincount(level), 1)
    means = np.bincount(level, values) / counts
    return float(np.mean((values - means[level]) ** 2))
