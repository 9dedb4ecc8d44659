"""Which way up a picture is: rotations and flips of the display matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Orientation:
    """What must be done to a stored picture so that it is seen as meant.

    Attributes:
        rotation: Clockwise degrees, 0, 90, 180 or 270, after mirroring.
        mirrored: Whether left and right are exchanged first.
    """

    rotation: int = 0
    mirrored: bool = False

    @property
    def is_sideways(self) -> bool:
        """Whether stored width is height on display."""
        return self.rotation % 180 != 0

    def upright(self, height: int, width: int) -> tuple[int, int]:
        """Height and width on display of a picture stored with these; and the other way round."""
        return (width, height) if self.is_sideways else (height, width)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`pixels` [H, W, 3] as they are meant to be seen."""
        import numpy as np

        if self == UPRIGHT:
            return pixels
        flipped = pixels[:, ::-1] if self.mirrored else pixels
        return np.ascontiguousarray(np.rot90(flipped, -self.rotation // 90))


UPRIGHT = Orientation()


def from_matrix(a: float, b: float, c: float, d: float) -> Orientation:
    """The orientation of a display matrix that takes (x, y) to (ax + cy, bx + dy), with y pointing down.

    The eight matrices of quarter turns and flips are followed exactly. Any other angle counts as the
    nearest right angle, halves as the even number of turns: FFmpeg would turn such pictures in a frame
    with black corners. A matrix that flattens the picture is ignored. (ISO/IEC 14496-12, 6.2.2)
    """
    turned = a * d - b * c
    if turned == 0:
        return UPRIGHT
    mirrored = turned < 0
    degrees = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
    return Orientation(round(degrees / 90) % 4 * 90, mirrored)


def orientation_of(picture: Any) -> Orientation:
    """The orientation that the container or the stream gives a decoded picture.

    For one picture in many: whose side data PyAV has read is freed by the garbage collector only, and
    until then its pixels stay, and new ones come from cold memory.
    """
    import numpy as np
    from av.sidedata.sidedata import Type

    for data in picture.side_data:
        if data.type == Type.DISPLAYMATRIX:
            a, b, _, c, d = (int(value) for value in np.frombuffer(data, np.int32)[:5])
            return from_matrix(a, b, c, d)
    return UPRIGHT
