"""Stretches of long videos that several workers look at at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from curation.records import Sample

SEEK_OVER_S = 10.0
"""Gaps between spans that are not decoded through."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The times [start_s, end_s) of a video, in seconds; by default all of them."""

    start_s: float = -math.inf
    end_s: float = math.inf

    def holds(self, time_s: float) -> bool:
        """Whether a time lies in it."""
        return self.start_s <= time_s < self.end_s


WHOLE_VIDEO = Segment()


def segments_of(duration_s: float, segment_s: float) -> tuple[Segment, ...]:
    """Equal parts of at most `segment_s` seconds; the first and last are open, as headers may be wrong."""
    number = max(1, math.ceil(duration_s / segment_s))
    inner = [duration_s * step / number for step in range(1, number)]
    return tuple(Segment(start_s, end_s) for start_s, end_s in pairwise([-math.inf, *inner, math.inf]))


def neighbors(spans: list[Sample], *, can_seek: bool = True) -> Iterator[list[Sample]]:
    """Spans in order of time, grouped where it is cheaper to decode on than to seek."""
    group: list[Sample] = []
    for span in sorted(spans, key=lambda span: span.start_s):
        if can_seek and group and span.start_s - group[-1].end_s > SEEK_OVER_S:
            yield group
            group = []
        group.append(span)
    if group:
        yield group
