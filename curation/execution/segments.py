"""Segments of long videos: several workers filter one video, each a segment of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from curation.errors import SampleError
from curation.records import Row, Sample

SEEK_OVER_S = 10.0
"""Gaps between spans that are not decoded through."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The times [start_s, end_s) of a video, in seconds; by default all of them."""

    start_s: float = -math.inf
    end_s: float = math.inf

    def holds(self, time_s: float) -> bool:
        """Whether a time lies in the segment."""
        return self.start_s <= time_s < self.end_s

    def share_of(self, duration_s: float | None) -> float:
        """Its share of a video that is so long; 1 where that is not known."""
        if not duration_s:
            return 1.0
        return (min(self.end_s, duration_s) - max(self.start_s, 0.0)) / duration_s


WHOLE_VIDEO = Segment()


@dataclass(frozen=True)
class SegmentResult:
    """What one worker measured of a segment. Provisional: merging drops clips whose boundaries change.

    Attributes:
        frame_metrics: What the splitter measured of the segment's own frames, in order.
        end_s: When the video ends, if the worker decoded it to the end.
        rows: Step key -> the filters' rows of the clips that seem to begin in the segment.
        codings: Sizes, pixel aspects and orientations of the segment's frames as stored.
        error: Why decoding or splitting failed; everything else is then empty.
    """

    frame_metrics: Sequence[Any] = ()
    end_s: float | None = None
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    codings: frozenset[tuple[object, ...]] = frozenset()
    error: SampleError | None = None


def segments_of(duration_s: float, segment_s: float) -> tuple[Segment, ...]:
    """Equal segments of at most `segment_s` seconds; the first and last are open, as headers may be wrong."""
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
