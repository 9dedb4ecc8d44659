"""The size that a view asks for, and a picture brought to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from curation.media.halvings import Halvings, shrunk_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation.stage import View


def view_size(view: View, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels of a frame under `view`.

    Raises:
        SampleError: the view's `sizing` can't take a picture of this size.
    """
    if view.sizing is not None:
        return view.sizing.steps(height, width)[-1]
    return (height, width) if view.short_side is None else shrunk_size(view.short_side, height, width)


def resize(pixels: NDArray[np.uint8], view: View, halvings: Halvings | None = None) -> NDArray[np.uint8]:
    """`pixels` [H, W, 3] uint8 RGB at the view's size.

    The steps of a `sizing` by Pillow's bicubic filter; a short side by averaging areas, or by halving where
    the view says so. `halvings` are those of `pixels`, where other views need them, too.

    Raises:
        SampleError: the view's `sizing` can't take a picture of this size.
    """
    if view.sizing is not None:
        return _bicubic(pixels, view.sizing.steps(*pixels.shape[:2]))
    size = view_size(view, *pixels.shape[:2])
    if view.halved:
        return (halvings or Halvings(pixels)).at(size)
    return _averaged(pixels, size)


def _bicubic(pixels: NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
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
