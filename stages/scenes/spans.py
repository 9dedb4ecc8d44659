"""Turns cuts into spans as soon as no later frame can change them."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curation.media.frame import Frame
from curation.splitter import CutFinder, Span
from curation.stages.scenes.detection import TIME_BASE, Detection, FrameMetrics

if TYPE_CHECKING:
    from curation.stages.scenes.settings import ScenesConfig

_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class _CutCandidate:
    """What is remembered of a frame that may become a cut.

    `number` is its time at the average frame rate, which is how the detectors count: at a variable
    rate two frames may share one.
    """

    index: int
    ticks: int
    number: int
    pts_s: float


class SpanFinder(CutFinder):
    """The clips of one video.

    Attributes:
        frame_metrics: What was read off each frame, in order, where `keeps_frame_metrics`; else empty.
    """

    def __init__(self, config: ScenesConfig, detection: Detection, *, keeps_frame_metrics: bool) -> None:
        self._config = config
        self._detection = detection
        self._keeps_readings = keeps_frame_metrics
        self.frame_metrics: list[FrameMetrics] = []
        self._seen: list[_CutCandidate] = []
        self._cuts: set[_CutCandidate] = set()
        self._start: _CutCandidate | None = None

    @property
    def open_from_s(self) -> float | None:
        return None if self._start is None else self._start.pts_s

    def push(self, frame: Frame) -> Iterator[Span]:
        metrics = FrameMetrics(frame.pts_s)
        if self._keeps_readings:
            self.frame_metrics.append(metrics)
        timecode = self._see(frame.index, frame.pts_s)
        self._note(self._detection.push(timecode, frame, metrics))
        yield from self._settle()

    def replay(self, frame_metrics: Sequence[FrameMetrics], end_s: float) -> Iterator[Span]:
        """The spans of a whole video from what was read off its frames earlier."""
        for index, metrics in enumerate(frame_metrics):
            timecode = self._see(index, metrics.pts_s)
            self._note(self._detection.replay(timecode, metrics))
            yield from self._settle()
        yield from self.finish(end_s)

    def finish(self, end_s: float) -> Iterator[Span]:
        if self._start is None:
            return
        self._note(self._detection.finish())
        yield from self._spans_before(None)
        end = _CutCandidate(self._seen[-1].index + 1, 0, 0, end_s)
        yield from self._pieces_until(end)
        yield from self._span(self._start, end)

    def _see(self, index: int, pts_s: float) -> Any:
        timecode = self._detection.timecode(pts_s)
        self._seen.append(_CutCandidate(index, timecode.pts, timecode.frame_num, pts_s))
        if self._start is None:
            self._start = self._seen[0]
        return timecode

    def _settle(self) -> Iterator[Span]:
        until = self._detection.settled_before()
        yield from self._spans_before(until)
        kept = bisect.bisect_left(self._seen, until, key=lambda seen: seen.number)
        del self._seen[: max(0, kept - 1 - self._config.margin_frames)]

    def _note(self, cuts: Sequence[Any]) -> None:
        """Keep the first frames of new scenes: a content cut is a frame's time, a fade's only a number."""
        for cut in cuts:
            is_exact = cut.time_base == TIME_BASE
            found = (
                seen
                for seen in self._seen
                if (seen.ticks >= cut.pts if is_exact else seen.number >= cut.frame_num)
            )
            self._cuts |= set(itertools.islice(found, 1))

    def _spans_before(self, until: int | None) -> Iterator[Span]:
        """Spans that end before frame number `until` (None: at any cut), in order."""
        due = {cut for cut in self._cuts if until is None or cut.number < until}
        self._cuts -= due
        for cut in sorted(due, key=lambda seen: seen.index):
            if self._start is not None and cut.index > self._start.index:
                yield from self._pieces_until(cut)
                yield from self._span(self._start, self._moved(cut, -self._config.margin_frames))
                self._start = self._moved(cut, self._config.margin_frames)
        settled = [seen for seen in self._seen if until is not None and seen.number < until]
        if settled:
            yield from self._pieces_until(settled[-1])

    def _pieces_until(self, end: _CutCandidate) -> Iterator[Span]:
        """Pieces of `max_clip_s` of a scene that is known to go on at least until `end`."""
        longest_s = self._config.max_clip_s
        while longest_s is not None and self._start is not None and end.pts_s - self._start.pts_s > longest_s:
            due_s = self._start.pts_s + longest_s - _ROUNDING_S
            cut = next((seen for seen in self._seen if due_s <= seen.pts_s < end.pts_s), None)
            if cut is None:
                return
            yield from self._span(self._start, cut)
            self._start = cut

    def _moved(self, cut: _CutCandidate, frames: int) -> _CutCandidate:
        """The frame so many frames later, as far as there are any."""
        wanted = cut.index + frames
        return min(self._seen, key=lambda seen: abs(seen.index - wanted))

    @staticmethod
    def _span(start: _CutCandidate, end: _CutCandidate) -> Iterator[Span]:
        """The span, unless margins left nothing of it."""
        if start.index < end.index:
            yield Span(start_s=start.pts_s, end_s=end.pts_s, start_frame=start.index, end_frame=end.index)
