"""The size that a view asks for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from curation.errors import UnsupportedMediaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation.stage import View

MAX_ASPECT_RATIO = 5.0
"""Emu3's limit for what the vision tokenizer takes."""


def view_size(view: View, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels of a frame under `view`.

    Raises:
        UnsupportedMediaError: an area is asked for and the aspect ratio is above 5.
    """
    if view.area is not None:
        return _area_size(view.area, view.multiple, height, width)
    if view.short_side is not None and min(height, width) > view.short_side:
        scale = view.short_side / min(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
    return height, width


def _area_size(area: int, multiple: int, height: int, width: int) -> tuple[int, int]:
    """Sides near `area` pixels at the same aspect ratio, rounded to multiples of `multiple`."""
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise UnsupportedMediaError(f"aspect ratio of {width}x{height} is above {MAX_ASPECT_RATIO:g}")
    scale = math.sqrt(area / (height * width))

    def side(pixels: int) -> int:
        return max(multiple, round(pixels * scale / multiple) * multiple)

    return side(height), side(width)


def resize(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """`pixels` [H, W, 3] uint8 at the view's size: area-averaged when shrunk, bicubic when enlarged."""
    import cv2

    height, width = view_size(view, *pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    shrinks = height * width < pixels.shape[0] * pixels.shape[1]
    scaled: NDArray[np.uint8] = cv2.resize(
        pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return scaled
