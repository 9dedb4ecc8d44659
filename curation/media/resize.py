"""The size that a view asks for, and a picture brought to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from curation.errors import UnsupportedMediaError
from curation.media.halvings import Halvings, shrunk_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation.stage import View

MAX_ASPECT_RATIO = 5.0
"""Emu3's limit for what the vision tokenizer takes."""
MIN_AREA_PX = 512 * 512
"""Emu3's image processor enlarges what is smaller, whatever area was aimed at."""
MAX_AREA_PX = 1024 * 1024
"""Emu3's image processor shrinks what is larger."""
TOKEN_SIDE_PX = 8
"""Sides are multiples of a token's own side."""


def view_size(view: View, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels of a frame under `view`.

    Raises:
        UnsupportedMediaError: Emu3's sizes are asked for and the aspect ratio is above 5.
    """
    if view.emu3_area is not None:
        return _emu3_sizes(view.emu3_area, height, width)[-1]
    return (height, width) if view.short_side is None else shrunk_size(view.short_side, height, width)


def resize(pixels: NDArray[np.uint8], view: View, halvings: Halvings | None = None) -> NDArray[np.uint8]:
    """`pixels` [H, W, 3] uint8 RGB at the view's size.

    Emu3's sizes by Pillow's bicubic filter, from one size to the next; a short side by averaging areas, or by
    halving where the view says so. `halvings` are those of `pixels`, where other views need them, too.

    Raises:
        UnsupportedMediaError: Emu3's sizes are asked for and the aspect ratio is above 5.
    """
    if view.emu3_area is not None:
        return _bicubic(pixels, _emu3_sizes(view.emu3_area, *pixels.shape[:2]))
    size = view_size(view, *pixels.shape[:2])
    if view.halved:
        return (halvings or Halvings(pixels)).at(size)
    return _averaged(pixels, size)


def _emu3_sizes(area: int | tuple[int, int], height: int, width: int) -> list[tuple[int, int]]:
    """Heights and widths that Emu3 brings a picture to, one after the other; the last one is tokenized.

    One area: its data preparation (github.com/baaivision/Emu3, emu3/train/prepare_data.py) aims at the
    area, then its image processor makes sides whole tokens. Two: the image processor alone, with these
    bounds, which is how Emu3 reads pictures that are to be understood (emu3/mllm/processing_emu3.py).
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise UnsupportedMediaError(f"aspect ratio of {width}x{height} is above {MAX_ASPECT_RATIO:g}")
    if isinstance(area, tuple):
        return [_whole_tokens(height, width, *area)]
    scale = (area / (height * width)) ** 0.5  # its own expression: `math.sqrt` can differ in the last bit
    near = round(height * scale), round(width * scale)
    # Areas outside of the image processor's bounds move them, or every picture would have one area.
    return [near, _whole_tokens(*near, min(area, MIN_AREA_PX), max(area, MAX_AREA_PX))]


def _whole_tokens(height: int, width: int, min_area: int, max_area: int) -> tuple[int, int]:
    """Sides as multiples of 8 by the rule of Emu3's image processor, operations in its order.

    Each side goes to the nearest multiple, halves to the even one, as Python's `round` has it. Where that
    leaves the bounds, both sides are scaled to the bound and rounded inwards: down from the largest
    area, up from the smallest.
    """
    rows, columns = round(height / TOKEN_SIDE_PX), round(width / TOKEN_SIDE_PX)
    area = rows * columns * TOKEN_SIDE_PX**2
    if area > max_area:
        scale = math.sqrt(height * width / max_area)
        rows, columns = (math.floor(pixels / scale / TOKEN_SIDE_PX) for pixels in (height, width))
    elif area < min_area:
        scale = math.sqrt(min_area / (height * width))
        rows, columns = (math.ceil(pixels * scale / TOKEN_SIDE_PX) for pixels in (height, width))
    return rows * TOKEN_SIDE_PX, columns * TOKEN_SIDE_PX


def _bicubic(pixels: NDArray[np.uint8], sizes: list[tuple[int, int]]) -> NDArray[np.uint8]:
    """`pixels` resized to each size in turn by Pillow, which rounds to whole levels after every pass."""
    import numpy as np
    from PIL import Image

    if all(size == pixels.shape[:2] for size in sizes):
        return pixels
    image = Image.fromarray(pixels)
    for height, width in sizes:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _averaged(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """`pixels` shrunk to a height and width, each new one the mean of the area that it covers."""
    import cv2

    if size == pixels.shape[:2]:
        return pixels
    shrunk: NDArray[np.uint8] = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
    return shrunk
