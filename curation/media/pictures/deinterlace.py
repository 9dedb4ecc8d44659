"""Deinterlaces single pictures with FFmpeg's bwdif, from the pictures before and after."""

from __future__ import annotations

from typing import Any

from curation.media.pictures.filters import build_graph

_OPTIONS = "mode=send_frame:parity=auto:deint=interlaced"
"""One picture out per picture in; which field comes first, and whether there are two, by its own flags."""


class Deinterlacer:
    """Makes whole pictures of interlaced ones.

    A picture's result depends on its two neighbors alone, so that it is the same wherever decoding began.
    Pictures asked for in order share the filter's work; in any other order it begins anew.
    """

    def __init__(self) -> None:
        self._graph: Any = None
        self._newest: Any = None

    def __call__(self, before: Any, picture: Any, after: Any) -> Any:
        """`picture` deinterlaced; its neighbors are None at the ends of the stream.

        Neighbors of another size or format, where a stream changes, are as good as none.
        """
        before = before if _is_alike(before, picture) else None
        after = after if _is_alike(after, picture) else None
        if self._graph is None or self._newest is not picture:
            self._begin(before, picture)
        # The filter gives a picture when it has its successor, or knows that there is none.
        self._graph.push(after)
        result = self._graph.pull()
        self._newest = after
        if after is None:
            self._graph = None
        return result

    def _begin(self, before: Any, picture: Any) -> None:
        self._graph = build_graph(picture, [("bwdif", _OPTIONS)])
        if before is not None:
            self._graph.push(before)
        self._graph.push(picture)
        if before is not None:
            self._graph.pull()


def _is_alike(other: Any, picture: Any) -> bool:
    return other is not None and (other.width, other.height, other.format.name) == (
        picture.width,
        picture.height,
        picture.format.name,
    )
