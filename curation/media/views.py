"""Picks, from frames that pass by once, those that each view asks for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from curation.errors import DecodeError
from curation.errors.isolation import isolated
from curation.media.halvings import Halvings
from curation.stage import GRID_FPS, Media, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation.media.frame import Frame
    from curation.records import Sample, Source


@dataclass(frozen=True, slots=True)
class _Picked:
    target_s: float
    pts_s: float
    pixels: NDArray[np.uint8]


class _Sampler:
    """Gives each target time the frame on display then: the last one that began at or before it.

    Targets come in rising order. A frame is known to be the last one only when its successor is
    seen, so picks lag behind by one frame.
    """

    def __init__(self, view: View, targets: Iterable[float]) -> None:
        self._view = view
        self._targets = iter(targets)
        self._next = next(self._targets, math.inf)
        self._shown: Frame | None = None

    def push(self, frame: Frame) -> Iterator[_Picked]:
        """Take the next frame; yield the targets that its predecessor was on display for."""
        yield from self._until(frame.pts_s)
        self._shown = frame

    def finish(self, end_s: float) -> Iterator[_Picked]:
        """The last frame stays until `end_s`."""
        yield from self._until(end_s)

    def _until(self, end_s: float) -> Iterator[_Picked]:
        if self._shown is None or self._next >= end_s:
            return
        pixels = self._shown.resized(self._view)
        while self._next < end_s:
            yield _Picked(self._next, self._shown.pts_s, pixels)
            self._next = next(self._targets, math.inf)


def _grid(first_s: float, fps: float, from_s: float) -> Iterator[float]:
    """The times first_s + k / fps that are not before `from_s`."""
    step = max(0, math.floor((from_s - first_s) * fps) - 1)
    while first_s + step / fps < from_s:
        step += 1
    while True:
        yield first_s + step / fps
        step += 1


class GridCollector:
    """For clips whose ends are found while the frames pass: a fixed grid from the first frame on.

    Frames are held only from the start of the oldest clip that is still open.
    """

    def __init__(self, views: Iterable[View], first_s: float | None = None) -> None:
        """`first_s` is the time of the source's first frame, if that is not the first one pushed."""
        self._first_s = first_s
        self._views = tuple(dict.fromkeys(views))
        self._samplers: dict[View, _Sampler] = {}
        self._held: dict[View, deque[_Picked]] = {view: deque() for view in self._views}

    def push(self, frame: Frame) -> None:
        """Take the next frame of the source."""
        if not self._samplers:
            first_s = frame.pts_s if self._first_s is None else self._first_s
            self._samplers = {
                view: _Sampler(view, _grid(first_s, view.fps or GRID_FPS, frame.pts_s))
                for view in self._views
            }
        for view, sampler in self._samplers.items():
            self._held[view].extend(sampler.push(frame))

    def finish(self, end_s: float) -> None:
        """The source ends at `end_s` seconds."""
        for view, sampler in self._samplers.items():
            self._held[view].extend(sampler.finish(end_s))

    def forget_before(self, start_s: float) -> None:
        """No clip that starts before `start_s` will be asked for again."""
        for held in self._held.values():
            while held and held[0].target_s < start_s:
                held.popleft()

    def media(self, view: View, source: Source, sample: Sample) -> Media:
        """The frames of one finished clip."""
        inside = [pick for pick in self._held[view] if sample.start_s <= pick.target_s < sample.end_s]
        if view.count is not None:
            inside = _nearest(inside, _centers(sample, view.count))
        elif view.fps is None:
            inside = inside[:1]
        return _as_media(source, inside, view)


class SpanCollector:
    """For spans known beforehand: times relative to each span's own start. Spans may touch."""

    def __init__(self, spans: Sequence[Sample], views: Iterable[View]) -> None:
        self._spans = sorted(spans, key=lambda span: span.start_s)
        self._views = tuple(dict.fromkeys(views))
        self._samplers = {
            (span.sample_id, view): _Sampler(view, _exact_targets(span, view))
            for span in self._spans
            for view in self._views
        }
        self._picked: dict[tuple[str, View], list[_Picked]] = {key: [] for key in self._samplers}

    def push(self, frame: Frame) -> list[Sample]:
        """Take the next frame; return the spans that are complete now."""
        complete = []
        while self._spans and self._spans[0].end_s <= frame.pts_s:
            complete.append(self._close(self._spans.pop(0)))
        for span in self._spans:
            if span.start_s > frame.pts_s:
                break
            for view in self._views:
                key = (span.sample_id, view)
                self._picked[key].extend(self._samplers[key].push(frame))
        return complete

    def finish(self) -> list[Sample]:
        """After the last frame: return the spans that are left."""
        complete = [self._close(span) for span in self._spans]
        self._spans = []
        return complete

    def _close(self, span: Sample) -> Sample:
        for view in self._views:
            key = (span.sample_id, view)
            self._picked[key].extend(self._samplers[key].finish(span.end_s))
        return span

    def media(self, view: View, source: Source, sample: Sample) -> Media:
        """The frames of one complete span, which are then no longer held."""
        return _as_media(source, self._picked[sample.sample_id, view], view)

    def forget(self, sample: Sample) -> None:
        """The span has been measured."""
        for view in self._views:
            del self._picked[sample.sample_id, view], self._samplers[sample.sample_id, view]


def _centers(span: Sample, count: int) -> list[float]:
    """The centers of `count` equal parts of the span: 1/6, 1/2, 5/6 of it for three."""
    return [span.start_s + span.duration_s * (2 * part + 1) / (2 * count) for part in range(count)]


def _exact_targets(span: Sample, view: View) -> list[float]:
    if view.count is not None:
        return _centers(span, view.count)
    if view.fps is None:
        return [span.start_s]
    number = max(1, math.ceil(round(span.duration_s * view.fps, 6)))
    targets = [span.start_s + step / view.fps for step in range(number)]
    return targets if view.max_frames is None else targets[: view.max_frames]


def _nearest(picks: list[_Picked], times: list[float]) -> list[_Picked]:
    return [min(picks, key=lambda pick: abs(pick.target_s - time)) for time in times] if picks else []


def _as_media(source: Source, picks: Sequence[_Picked], view: View) -> Media:
    if view.max_frames is not None:
        picks = picks[: view.max_frames]
    if not picks:
        return Media(source, np.empty((0, 0, 0, 3), np.uint8), np.empty(0))
    with isolated(DecodeError):
        pixels = np.stack([pick.pixels for pick in picks])
    halvings = [Halvings(frame) for frame in pixels]
    return Media(source, pixels, np.array([pick.pts_s for pick in picks]), halvings)
