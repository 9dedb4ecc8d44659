"""A picture made smaller quickly: halved again and again, then brought to the size that is wanted.

    halvings = Halvings(pixels)
    small = halvings.at_short_side(256)

All sizes of a picture share one chain of halves, which depends on the picture alone: whoever else asks for
which size changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HALVINGS_VERSION = 1
"""Raise it when the same picture gives other pixels: what stages measured of them is then measured again."""


class Halvings:
    """A picture and its halves.

    Each half has half the height and width of the one before, rounded down: an odd last row or column is
    left out. Its pixels are means of two by two, halves rounded up. A size is made of the smallest half that
    is not smaller, by bilinear interpolation; the picture itself is never enlarged.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        """`pixels` [H, W, 3] uint8 RGB."""
        self._chain = [pixels]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture itself."""
        return self._chain[0]

    def at_short_side(self, short_side: int) -> NDArray[np.uint8]:
        """The picture with a short side of so many pixels at most, [H, W, 3] uint8 RGB."""
        return self.at(shrunk_size(short_side, *self.pixels.shape[:2]))

    def at(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The picture at a height and width, neither above its own."""
        import cv2

        nearest = self._nearest(*size)
        if nearest.shape[:2] == size:
            return nearest
        resized: NDArray[np.uint8] = cv2.resize(nearest, size[::-1], interpolation=cv2.INTER_LINEAR)
        return resized

    def _nearest(self, height: int, width: int) -> NDArray[np.uint8]:
        """The smallest half that has at least this height and width."""
        place = 0
        while self._holds(place + 1, height, width):
            place += 1
            if place == len(self._chain):
                self._chain.append(_half(self._chain[-1]))
        return self._chain[place]

    def _holds(self, place: int, height: int, width: int) -> bool:
        full = self.pixels.shape[:2]
        return all(
            side >> place >= max(wanted, 1) for side, wanted in zip(full, (height, width), strict=True)
        )


def shrunk_size(short_side: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a picture whose short side may have so many pixels at most; never enlarged."""
    if min(height, width) <= short_side:
        return height, width
    scale = short_side / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _half(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    even = pixels[: 2 * height, : 2 * width]
    half: NDArray[np.uint8] = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return half
