"""One decoded picture, converted to RGB only when somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from curation.errors import DecodeError
from curation.errors.isolation import isolated
from curation.media.resize import resize, view_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation.stage import Sizing, View


class Frame:
    """A frame of a video.

    Attributes:
        pts_s: Presentation time in seconds, as the container has it; where its clock jumps, on the
            `Timeline`.
        index: Number of the frame in presentation order, from 0.
        follows_jump: Whether the clock jumped before this frame: what came before is another recording.
        coded: Size, pixel aspect and orientation of the picture as it is stored; None where the decoder
            does not tell.
        num_decoded: How many pictures were decoded since the frame before was given: fewer than one each
            where some are left out, more where some are decoded a second time.
        on_look: Called when somebody looks at the frame.
    """

    follows_jump = False
    num_decoded = 1
    on_look: Callable[[], None] | None = None

    def __init__(
        self,
        pts_s: float,
        index: int,
        render: Callable[[], NDArray[np.uint8]],
        coded: tuple[object, ...] | None = None,
    ) -> None:
        self.pts_s = pts_s
        self.index = index
        self.coded = coded
        self._render = render
        self._sizes: dict[tuple[tuple[int, int], Sizing | None, bool], NDArray[np.uint8]] = {}

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB, upright, square pixels."""
        if self.on_look is not None:
            self.on_look()
        with isolated(DecodeError):
            return self._render()

    def resized(self, view: View) -> NDArray[np.uint8]:
        """`pixels` at the size that the view asks for; views of one size and filter share the work."""
        key = view_size(view, *self.pixels.shape[:2]), view.sizing, view.halved
        if key not in self._sizes:
            with isolated(DecodeError):
                self._sizes[key] = resize(self.pixels, view)
        return self._sizes[key]
