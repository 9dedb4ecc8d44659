"""Renders the pictures of one video as frames that all have one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from curation.media.frame import Frame
from curation.media.image import MAX_PIXELS
from curation.media.pictures.deinterlace import Deinterlacer
from curation.media.pictures.filters import RGBConverter, Scaler
from curation.media.pictures.orientation import Orientation, orientation_of
from curation.media.pictures.tonemap import HLG, PQ, ToneMapper

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


PIXELS_VERSION = 2
"""Raise it when the same video gives other pixels: what filters made of them is then measured again."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the pictures of a video become frames.

    Attributes:
        size: Height and width of every frame in pixels; None: those of the first picture that is decoded.
        tone_maps: Whether HDR is tone-mapped; else its code values are taken for SDR.
        max_pixels: Larger pictures are refused.
    """

    size: tuple[int, int] | None = None
    tone_maps: bool = True
    max_pixels: int = MAX_PIXELS


DEFAULT_RENDERING = Rendering()


def shown_size(picture: Any, aspect: Fraction | None, orientation: Orientation) -> tuple[int, int]:
    """Height and width of a picture with square pixels, upright."""
    return orientation.upright(picture.height, square_width(picture.width, aspect))


def square_width(width: int, aspect: Fraction | None) -> int:
    """The width in square pixels: a stored pixel may be wider than high.

    A pixel aspect is taken at its word, as players do; one of zero or below says nothing, and is 1.
    """
    return max(1, round(width * aspect)) if aspect and 0 < aspect != 1 else width


def too_large(width: int, height: int, aspect: Fraction | None, max_pixels: int) -> str | None:
    """Why a picture of this stored size is refused; None if it is not."""
    wide = square_width(width, aspect)
    if max(width, wide) * height <= max_pixels:
        return None
    shown = f"{width}x{height}" if wide == width else f"{width}x{height}, shown as {wide}x{height}"
    return f"it has more pixels than max_pixels: {max_pixels} ({shown})"


def with_square_pixels(
    pixels: NDArray[np.uint8], aspect: Fraction | None, *, sideways: bool = False
) -> NDArray[np.uint8]:
    """Stretched so that pixels of this width to height become square.

    `sideways`: the picture has been turned by a quarter already, so that stored width is height now.
    """
    height, width = pixels.shape[:2]
    size = (width, square_width(height, aspect)) if sideways else (square_width(width, aspect), height)
    if size == (width, height):
        return pixels
    import cv2

    stretched: NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    return stretched


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An interlaced picture whose successor is not known yet; `whole` makes its frame when it is."""

    before: Any
    picture: Any
    whole: Callable[[Callable[[], Any]], Frame]


class Renderer:
    """Turns the pictures of one video into frames, converted only when somebody looks at them.

    Progressive pictures become frames at once; an interlaced one when the next is there, which
    deinterlacing needs. The one before is looked at if it is interlaced, too.
    """

    def __init__(self, rendering: Rendering, aspect: Fraction | None) -> None:
        """`aspect` is the width to height of a stored pixel, by the container."""
        self._size = rendering.size
        self._tone_maps = rendering.tone_maps
        self._aspect = aspect
        self._turned: tuple[float, Orientation] | None = None
        self._before: Any = None
        self._waiting: _Waiting | None = None
        self._deinterlace = Deinterlacer()
        self._tone_map = ToneMapper()
        self._scale = Scaler()
        self._convert = RGBConverter()

    def push(self, picture: Any, pts_s: float, index: int, aspect: Fraction | None) -> Iterator[Frame]:
        """Take the next picture; yield the frames that are ready. `aspect` is the stream's own, as of now."""
        yield from self._ready(picture)
        orientation = self._orientation(picture)
        size = shown_size(picture, self._aspect, orientation)
        self._size = self._size or size
        scaled = None if size == self._size else orientation.upright(*self._size)
        coded = (picture.width, picture.height, aspect, orientation)

        def frame(picture: Callable[[], Any]) -> Frame:
            return Frame(pts_s, index, lambda: self._render(picture(), orientation, scaled), coded)

        if picture.interlaced_frame:
            self._waiting, self._before = _Waiting(self._before, picture, frame), picture
        else:
            # Not kept: holding one picture more than the decoder needs cost a third of decoding.
            self._before = None
            yield frame(lambda: picture)

    def promise(self, pictures: Callable[[], tuple[Any, Any, Any]], pts_s: float, index: int) -> Frame:
        """A frame whose picture, between its neighbors, is decoded when somebody looks at it."""

        def render() -> NDArray[np.uint8]:
            before, picture, after = pictures()
            orientation = self._orientation(picture)
            size = shown_size(picture, self._aspect, orientation)
            scaled = None if size == self._size else orientation.upright(*(self._size or size))
            if picture.interlaced_frame:
                is_woven = before is not None and before.interlaced_frame
                picture = self._deinterlace(before if is_woven else None, picture, after)
            return self._render(picture, orientation, scaled)

        return Frame(pts_s, index, render)

    def _orientation(self, picture: Any) -> Orientation:
        """That of the pictures before, unless its angle is another one."""
        if self._turned is None or self._turned[0] != picture.rotation:
            self._turned = picture.rotation, orientation_of(picture)
        return self._turned[1]

    def finish(self) -> Iterator[Frame]:
        """After the last picture: yield what is left."""
        yield from self._ready(None)

    def _ready(self, after: Any) -> Iterator[Frame]:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            yield waiting.whole(partial(self._deinterlace, waiting.before, waiting.picture, after))

    def _render(
        self, picture: Any, orientation: Orientation, scaled: tuple[int, int] | None
    ) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB, upright: with square pixels, or where the stream has changed, at the height
        and width `scaled`, as stored.
        """
        pixels = self._in_rgb(picture, scaled)
        return orientation.apply(pixels if scaled else with_square_pixels(pixels, self._aspect))

    def _in_rgb(self, picture: Any, size: tuple[int, int] | None) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB as stored, at this height and width or at the picture's own."""
        if self._tone_maps and picture.color_trc in (PQ, HLG):
            return self._tone_map(picture, size)
        if size is not None:
            return self._scale(picture, size)
        return self._convert(picture)
