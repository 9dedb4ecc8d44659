"""The filter pass over one video: cuts are found and clips measured while its frames pass by once.

A long video is looked at in parts by several workers. A part's clips are those that begin in it; it
reads a little before its start and on to the end of its last clip. What it read off its own frames is
kept, and replaying all frame_metrics gives the cuts of the whole, exactly; a clip that a part took for
another one, near its edges, is measured again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from curation.errors import ContractError, DecodeError, MeasureError, SampleError
from curation.errors.isolation import isolated
from curation.execution.segments import WHOLE_VIDEO, Segment, neighbors
from curation.execution.worker.measure import Metrics
from curation.ingest.media_readers import VideoReader, without_pixels
from curation.ledger.unit_state import branch_steps, decide_sample
from curation.media.decoder import DecoderSettings
from curation.media.frame import Frame
from curation.media.views import GridCollector
from curation.pipeline import Branch
from curation.pipeline.rules import steps_of
from curation.records import Row, Sample, Source
from curation.splitter import CutFinder, PerRecording, Span, Splitter, source_values, span_row
from curation.stage import Media, Stage, View

if TYPE_CHECKING:
    from curation.execution.worker.unit import UnitRun

CHUNK_CLIPS = 8
"""Finished clips of a video that are measured together."""
RUN_UP_S = 4.0
"""Read before a part beyond what its frame metrics need, so that its first cuts are mostly the true ones."""
OVERRUN_S = 2.0
"""Read behind a part, so that its last frames are settled."""


@dataclass
class SegmentResult:
    """What one worker saw of a video.

    Attributes:
        frame_metrics: What the splitter read off the part's own frames, in order.
        end_s: When the source ends, if its end was reached.
        rows: Step key -> rows of the clips that seem to begin in the part.
        codings: Sizes, pixel aspects and orientations of its frames as stored.
        error: Why it broke off.
    """

    frame_metrics: list[Any] = field(default_factory=list)
    end_s: float | None = None
    rows: dict[str, list[Row]] = field(default_factory=dict)
    codings: set[tuple[object, ...]] = field(default_factory=set)
    error: SampleError | None = None
    metrics: Metrics = field(default_factory=Metrics)


class VideoPass:
    """One video under the filters of its branch."""

    def __init__(self, unit: UnitRun, source: Source, branch: Branch, decoder: DecoderSettings) -> None:
        if branch.splitter is None:
            raise ContractError("videos need a splitter")
        self._unit = unit
        self._source = source
        self._branch = branch
        self._splitter = branch.splitter
        self._decoder = decoder
        self._steps = branch_steps(branch)
        self._judge = partial(decide_sample, branch)

    def filter(self, part: Segment) -> None:
        """Find the cuts; if they are known, measure what the clips of the part need."""
        known = self._unit.state.spans_of(self._source, self._splitter)
        if known:
            self._measure_known([clip for clip in known if part.holds(clip.start_s)])
        elif self._splitter.key in self._unit.allowed:
            self.process_segment(WHOLE_VIDEO)

    def process_segment(self, part: Segment) -> SegmentResult:
        """Look at the whole, or at one part, nothing of which is true before `join`."""
        stage = _splitter(self._unit.ready(self._splitter))
        start_s = part.start_s - (stage.lookback_s or 0.0) - RUN_UP_S
        reader = self._reader(max(0.0, start_s))
        collector = GridCollector(self._views(), reader.first_s() if start_s > 0 else None)
        with isolated(MeasureError):
            finder = self._finder(stage, part)
        self._measure(reader, finder, collector, part)
        self._unit.complete(self._splitter, self._source, source_values(reader.codings))
        own = [item for item in finder.frame_metrics if part.holds(item.pts_s)]
        self._unit.metrics.frames_held += reader.num_frames if part is WHOLE_VIDEO else len(own)
        return SegmentResult(own, None if reader.broke_off else reader.end_s, codings=reader.codings)

    def _reader(self, start_s: float) -> VideoReader:
        return VideoReader(
            self._source, self._decoder, self._unit.count_frame, start_s, self._unit.count_read
        )

    def _finder(self, stage: Splitter[Any], part: Segment) -> CutFinder:
        if self._source.clock_jumps:
            return PerRecording(partial(stage.start, self._source))
        return stage.start(self._source, keeps_frame_metrics=part is not WHOLE_VIDEO)

    def merge(self, results: Sequence[SegmentResult]) -> None:
        """Put the parts together, in order: the cuts of the whole, and the rows of clips that are real."""
        stage = _splitter(self._unit.ready(self._splitter))
        end_s = results[-1].end_s
        if end_s is None:
            raise DecodeError("the end of the video was not reached")
        frame_metrics = [item for item in results for item in item.frame_metrics]
        with isolated(MeasureError):
            spans = list(stage.replay(self._source, frame_metrics, end_s))
        clips = [self._new_clip(span) for span in spans]
        codings = set().union(*(item.codings for item in results))
        self._unit.complete(self._splitter, self._source, source_values(codings))
        self._unit.metrics.record(self._splitter.key, rows=len(clips))
        real = {clip.sample_id for clip in clips}
        steps = {step.key: step for step in self._steps if step is not self._splitter}
        for item in results:
            for key, rows in item.rows.items():
                for row in rows:
                    if key in steps and row.sample_id in real:
                        self._unit.take(steps[key], row)
        self._measure_known(clips)

    def _new_clip(self, span: Span) -> Sample:
        clip = Sample.of_span(self._source.source_id, span.start_s, span.end_s)
        self._unit.take(self._splitter, Row(clip.sample_id, span_row(clip, span)))
        return clip

    def _views(self) -> list[View]:
        steps = [step for step in steps_of(self._branch.rule) if step.key in self._unit.allowed]
        return [view for step in steps if (view := step.stage.view("clip")) is not None]

    def _measure_known(self, clips: Sequence[Sample]) -> None:
        """Decode only around the clips that something is missing of."""
        waiting = [clip for clip in clips if self._needs(clip) in self._unit.allowed]
        for group in neighbors(waiting, can_seek=not self._source.clock_jumps):
            reader = self._reader(group[0].start_s)
            collector = GridCollector(self._views(), reader.first_s() if group[0].start_s > 0 else None)
            self._measure(reader, _KnownSpans(group), collector, Segment(end_s=group[-1].end_s))
            self._unit.metrics.frames_held += reader.num_frames

    def _needs(self, clip: Sample) -> str | None:
        needs = self._judge(self._unit.state.rows_of(clip.sample_id, self._steps)).needs
        return needs.key if needs else None

    def _measure(
        self, reader: VideoReader, finder: CutFinder, collector: GridCollector, part: Segment
    ) -> None:
        """Let the frames pass by; measure the clips of the part when they are complete."""
        media_of = partial(_media_at, self._source, collector)
        is_new = not isinstance(finder, _KnownSpans)
        clips: list[Sample] = []
        for span in self._spans(reader, finder, collector, clips, part):
            if not part.holds(span.start_s):
                continue
            clips.append(self._new_clip(span) if is_new else _clip_at(self._source, span))
            self._unit.metrics.record(self._splitter.key, rows=int(is_new and part is WHOLE_VIDEO))
            if len(clips) == CHUNK_CLIPS:
                self._unit.advance(clips, self._steps, self._judge, media_of)
                clips.clear()
        self._unit.advance(clips, self._steps, self._judge, media_of)

    def _spans(
        self,
        reader: VideoReader,
        finder: CutFinder,
        collector: GridCollector,
        waiting: Sequence[Sample],
        part: Segment,
    ) -> Iterator[Span]:
        """Decode once; yield each span when the collector holds all of its frames."""
        for frame in reader:
            collector.push(frame)
            started = time.perf_counter()
            with isolated(MeasureError):
                spans = list(finder.push(frame))
            self._unit.metrics.record(self._splitter.key, seconds=time.perf_counter() - started)
            yield from spans
            open_from_s = finder.open_from_s
            oldest_s = waiting[0].start_s if waiting else open_from_s
            collector.forget_before(math.inf if oldest_s is None else oldest_s)
            is_behind = frame.pts_s >= part.end_s + OVERRUN_S
            if open_from_s is None or (is_behind and not part.holds(open_from_s)):
                reader.broke_off = True
                return
        if reader.num_frames == 0:
            raise DecodeError("not one frame could be decoded")
        collector.finish(reader.end_s)
        with isolated(MeasureError):
            spans = list(finder.finish(reader.end_s))
        yield from spans


def _clip_at(source: Source, span: Span) -> Sample:
    return Sample.of_span(source.source_id, span.start_s, span.end_s)


def _media_at(source: Source, collector: GridCollector, sample: Sample, view: View | None) -> Media:
    return collector.media(view, source, sample) if view else without_pixels(source)


def _splitter(stage: Stage[Any]) -> Splitter[Any]:
    if not isinstance(stage, Splitter):
        raise ContractError(f"{stage.name} is no splitter")
    return stage


class _KnownSpans(CutFinder):
    """Replays cuts that were found earlier, when only other stages are missing."""

    def __init__(self, clips: Sequence[Sample]) -> None:
        self._left = [
            Span(start_s=clip.start_s, end_s=clip.end_s, start_frame=0, end_frame=0) for clip in clips
        ]

    @property
    def open_from_s(self) -> float | None:
        return self._left[0].start_s if self._left else None

    def push(self, frame: Frame) -> Iterator[Span]:
        due = list(takewhile(lambda span: span.end_s <= frame.pts_s, self._left))
        del self._left[: len(due)]
        yield from due

    def finish(self, end_s: float) -> Iterable[Span]:
        return self._left
