"""FFmpeg's filters on single pictures."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FilterStep = tuple[str, str]
"""A filter's name and its options, as FFmpeg writes them."""


def build_graph(picture: Any, steps: Sequence[FilterStep]) -> Any:
    """A chain of filters, on one thread, for pictures of this one's size, format and colors."""
    import av

    graph = av.filter.Graph()
    graph.threads = 1
    last = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format.name,
        time_base=picture.time_base or Fraction(1, 25),
    )
    for name, options in (*steps, ("buffersink", "")):
        step = graph.add(name, options)
        last.link_to(step)
        last = step
    graph.configure()
    return graph


class PictureFilter(abc.ABC):
    """A chain that looks at one picture at a time; built anew when pictures change their kind."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._kind: tuple[Any, ...] = ()

    def run(self, picture: Any, size: tuple[int, int] | None) -> NDArray[Any]:
        """[H, W, 3] of a picture, at this height and width as stored; None: at its own."""
        kind = (
            *(picture.width, picture.height, picture.format.name, size),
            *(picture.color_trc, picture.color_primaries, picture.colorspace, picture.color_range),
        )
        if kind != self._kind:
            self._graph, self._kind = self.build(picture, size), kind
        self._graph.push(picture)
        pixels: NDArray[Any] = self._graph.pull().to_ndarray()
        return pixels

    @abc.abstractmethod
    def build(self, picture: Any, size: tuple[int, int] | None) -> Any:
        """The chain for pictures of this kind."""


class Scaler(PictureFilter):
    """Scales to RGB at another size with FFmpeg's own defaults, as it does when a stream changes its size."""

    def __call__(self, picture: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB."""
        return self.run(picture, size)

    def build(self, picture: Any, size: tuple[int, int] | None) -> Any:
        height, width = size or (picture.height, picture.width)
        return build_graph(picture, [("scale", f"{width}:{height}:flags=bicubic"), ("format", "rgb24")])


class RGBConverter:
    """Converts pictures to RGB at their own size.

    A picture's own `to_ndarray` sets up FFmpeg's converter anew, with a thread for every core: at
    320 x 180 pixels that takes ten times as long as the conversion.
    """

    def __init__(self) -> None:
        self._reformatter: Any = None

    def __call__(self, picture: Any) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB."""
        if self._reformatter is None:
            from av.video.reformatter import VideoReformatter

            self._reformatter = VideoReformatter()
        pixels: NDArray[np.uint8] = self._reformatter.reformat(
            picture, format="rgb24", threads=1
        ).to_ndarray()
        return pixels
