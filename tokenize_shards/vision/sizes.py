"""The sizes that Emu3 gives a picture before its vision tokenizer sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from curation.errors import UnsupportedMediaError

MAX_ASPECT_RATIO = 5.0
"""Emu3's limit for what the vision tokenizer takes."""
MIN_AREA_PX = 512 * 512
"""Emu3's image processor enlarges what is smaller, whatever area was aimed at."""
MAX_AREA_PX = 1024 * 1024
"""Emu3's image processor shrinks what is larger."""
TOKEN_SIDE_PX = 8
"""Sides are multiples of a token's own side."""


@dataclass(frozen=True)
class Emu3Sizes:
    """Emu3's resizing, for a `View`.

    One area: its data preparation (github.com/baaivision/Emu3, emu3/train/prepare_data.py) aims at the
    area, then its image processor makes sides whole tokens. Two: the image processor alone, with these
    bounds, which is how Emu3 reads pictures that are to be understood (emu3/mllm/processing_emu3.py).

    Attributes:
        area: Pixels of a picture, about; or the least and the most.
    """

    area: int | tuple[int, int]

    def steps(self, height: int, width: int) -> list[tuple[int, int]]:
        """Heights and widths, one after the other; the last one is tokenized.

        Raises:
            UnsupportedMediaError: the aspect ratio is above 5.
        """
        area = self.area
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
