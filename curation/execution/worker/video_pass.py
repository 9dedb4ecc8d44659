"""The filter pass over one video: cuts are found and clips measured while its frames pass by once.

    for event in VideoPass(source, branch, measurer, known, ...).filter():
        ...  # ClipFound, RowMeasured, ..., SourceMeasured

Several workers can filter a long video, each a segment of it. A segment's clips are those that begin in
it; its worker decodes a little before its start and on to the end of its last clip. The splitter's metrics
of the segment's own frames are kept, and replaying those of all segments gives exactly the cuts of the whole
video. Near its edges a segment may find clips that merging does not find again: their rows are dropped, and
the true clips there are measured once more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, takewhile
from typing import Any

from curation.errors import ContractError, DecodeError, MeasureError
from curation.errors.isolation import isolated
from curation.execution.segments import WHOLE_VIDEO, Segment, SegmentResult, neighbors
from curation.execution.worker.measure import KnownRows, Measurer, Measuring, RowMeasured
from curation.execution.worker.overlap import Overlap
from curation.ingest.media_readers import VideoReader, without_pixels
from curation.ingest.sources import OpenSource, open_source
from curation.ledger.unit_state import decide_sample
from curation.media.decoder import DecoderSettings
from curation.media.frame import Frame
from curation.media.sampling import Sampling
from curation.media.views import GridCollector
from curation.pipeline import Branch
from curation.pipeline.rules import Rows, steps_of
from curation.records import Row, Sample, Source
from curation.splitter import CutFinder, PerRecording, Span, Splitter, source_values, span_row
from curation.stage import GRID_FPS, Media, View

CHUNK_CLIPS = 8
"""Finished clips of a video that are measured together."""
REMOTE_CHUNK_CLIPS = 24
"""The same where model workers measure some of it: three frames of each make a batch that suits a GPU."""
RUN_UP_S = 4.0
"""Read before a segment, beyond what its frame metrics need: its first cuts are then mostly the true ones."""
OVERRUN_S = 2.0
"""Read behind a segment, so that its last frames are settled."""


@dataclass(frozen=True, slots=True)
class ClipFound:
    """The splitter has found a clip; `row` is its row, still without `SOURCE_COLUMNS`."""

    clip: Sample
    row: Row


@dataclass(frozen=True, slots=True)
class SourceMeasured:
    """The video was split to its end; `values` are the `SOURCE_COLUMNS` of all clips found in it."""

    values: Mapping[str, Any]


VideoEvent = ClipFound | RowMeasured | SourceMeasured


class VideoPass:
    """One video under the filters of its branch."""

    def __init__(
        self,
        source: Source,
        branch: Branch,
        measurer: Measurer,
        overlap: Overlap,
        known: KnownRows,
        *,
        decoder: DecoderSettings,
        on_frame: Callable[[], None],
        opened: OpenSource = open_source,
    ) -> None:
        """`known` gives the rows of former runs; `on_frame` is called after each decoded frame.

        `opened` opens the source to be decoded.
        """
        if branch.splitter is None:
            raise ContractError("videos need a splitter")
        self._source = source
        self._branch = branch
        self._splitter = branch.splitter
        self._measurer = measurer
        self._overlap = overlap
        self._metrics = measurer.metrics
        self._known = known
        self._new: dict[str, dict[str, Row]] = {}
        self._decoder = decoder
        self._on_frame = on_frame
        self._opened = opened
        self._decide = partial(decide_sample, branch)
        is_remote = bool(measurer.remote & {step.key for step in steps_of(branch.rule)})
        self._chunk_clips = REMOTE_CHUNK_CLIPS if is_remote else CHUNK_CLIPS

    def filter(self) -> Iterator[VideoEvent]:
        """Split the whole video, and measure its clips.

        Raises:
            SampleError: the video can't be decoded or split; what came before tells only of a part of it.
        """
        stage = self._stage()
        reader, collector = self._open(WHOLE_VIDEO.start_s, stage)
        yield from self._pass_by(reader, self._finder(stage), collector, WHOLE_VIDEO)
        self._metrics.frames_held += reader.num_frames
        yield SourceMeasured(source_values(reader.codings))

    def filter_known(self, clips: Sequence[Sample]) -> Iterator[VideoEvent]:
        """Measure what clips need that were found before; decode only around those that need pixels.

        Raises:
            SampleError: the video can't be decoded.
        """
        yield from self._measure_without_pixels(clips)
        waiting = [clip for clip in clips if self._needs(clip) in self._measurer.allowed]
        groups = list(neighbors(waiting, can_seek=not self._source.clock_jumps))
        span_s = sum(group[-1].end_s - group[0].start_s for group in groups)
        for group in groups:
            reader, collector = self._open(group[0].start_s, None, span_s)
            segment = Segment(end_s=group[-1].end_s)
            yield from self._pass_by(reader, _KnownSpans(group), collector, segment)
            self._metrics.frames_held += reader.num_frames

    def _measure_without_pixels(self, clips: Sequence[Sample]) -> Iterator[RowMeasured]:
        """Measure what needs no frame of the clips, until something does."""
        steps = {step.key for step in steps_of(self._branch.rule) if step.stage.view("clip") is None}
        media_of = partial(_media_without_pixels, self._source)
        measuring = self._measurer.advance(clips, self._rows_of, self._decide, media_of, only=steps)
        for event in chain(self._overlap.run(measuring), self._overlap.finish()):
            self._new.setdefault(event.row.sample_id, {})[event.step.key] = event.row
            yield event

    def process_segment(self, segment: Segment) -> SegmentResult:
        """Split one segment, and measure its clips.

        Raises:
            SampleError: the segment can't be decoded or split.
        """
        stage = self._stage()
        start_s = segment.start_s - (stage.lookback_s or 0.0) - RUN_UP_S
        last_s = min(segment.end_s + OVERRUN_S, self._source.duration_s or math.inf)
        reader, collector = self._open(start_s, stage, last_s - max(0.0, start_s))
        finder = self._finder(stage, keeps_frame_metrics=True)
        rows: dict[str, list[Row]] = {}
        for event in self._pass_by(reader, finder, collector, segment):
            if isinstance(event, RowMeasured):
                rows.setdefault(event.step.key, []).append(event.row)
        own = [item for item in finder.frame_metrics if segment.holds(item.pts_s)]
        self._metrics.frames_held += len(own)
        end_s = None if reader.broke_off else reader.end_s
        return SegmentResult(own, end_s, rows, frozenset(reader.codings))

    def merge(self, results: Sequence[SegmentResult]) -> Iterator[VideoEvent]:
        """Find the clips of the whole video, keep their rows, and measure what they still need.

        Args:
            results: Those of all segments, in order.

        Raises:
            SampleError: a segment failed, or the video can't be decoded.
        """
        error = next((result.error for result in results if result.error is not None), None)
        if error is not None:
            raise error
        found = [self._add_clip(span) for span in self._replay(results)]
        yield from found
        codings: frozenset[object] = frozenset().union(*(result.codings for result in results))
        yield SourceMeasured(source_values(codings))
        steps = {step.key: step for step in steps_of(self._branch.rule)}
        for result in results:
            for key, rows in result.rows.items():
                for row in rows:
                    if row.sample_id in self._new:
                        self._new[row.sample_id][key] = row
                        yield RowMeasured(steps[key], row)
        yield from self.filter_known([event.clip for event in found])

    def _stage(self) -> Splitter[Any]:
        """The splitter: set up, unless its model is in a model worker."""
        is_remote = self._splitter.key in self._measurer.remote
        stage = self._splitter.stage if is_remote else self._measurer.ready(self._splitter)
        if not isinstance(stage, Splitter):
            raise ContractError(f"{stage.name} is no splitter")
        return stage

    def _finder(self, stage: Splitter[Any], *, keeps_frame_metrics: bool = False) -> CutFinder:
        is_remote = self._splitter.key in self._measurer.remote
        infer = partial(self._overlap.models.infer, self._splitter, self._source) if is_remote else None
        with isolated(MeasureError):
            if self._source.clock_jumps:
                return PerRecording(partial(stage.start, self._source, infer=infer))
            return stage.start(self._source, keeps_frame_metrics=keeps_frame_metrics, infer=infer)

    def _open(
        self, start_s: float, stage: Splitter[Any] | None, span_s: float | None = None
    ) -> tuple[VideoReader, GridCollector]:
        """A reader from `start_s` on, and what collects the filters' views of its frames.

        Args:
            start_s: Where the frames are needed from, in seconds.
            stage: The splitter that looks at the frames; None where the cuts are known.
            span_s: Seconds of the source that are needed in all; None for all of them.
        """
        start_s = max(0.0, start_s)
        reader = VideoReader(self._source, self._decoder, self._on_frame, start_s, self._opened, span_s)
        steps = [step for step in steps_of(self._branch.rule) if step.key in self._measurer.allowed]
        views = [view for step in steps if (view := step.stage.view("clip")) is not None]
        first_s = reader.first_s() if start_s > 0 else None
        if stage is None or stage.step_fps is not None:
            grids = frozenset(view.fps or GRID_FPS for view in views)
            reader.sampling = Sampling(stage.step_fps if stage else None, grids, first_s)
        return reader, GridCollector(views, first_s)

    def _replay(self, results: Sequence[SegmentResult]) -> list[Span]:
        end_s = results[-1].end_s
        if end_s is None:
            raise DecodeError("the end of the video was not reached")
        frame_metrics = [item for result in results for item in result.frame_metrics]
        stage = self._stage()
        with isolated(MeasureError):
            return list(stage.replay(self._source, frame_metrics, end_s))

    def _needs(self, clip: Sample) -> str | None:
        needs = self._decide(self._rows_of(clip)).needs
        return needs.key if needs else None

    def _rows_of(self, clip: Sample) -> Rows:
        return {**self._known(clip), **self._new.get(clip.sample_id, {})}

    def _add_clip(self, span: Span) -> ClipFound:
        clip = _clip_at(self._source, span)
        row = Row(clip.sample_id, span_row(clip, span))
        self._new[clip.sample_id] = {self._splitter.key: row}
        return ClipFound(clip, row)

    def _pass_by(
        self, reader: VideoReader, finder: CutFinder, collector: GridCollector, segment: Segment
    ) -> Iterator[VideoEvent]:
        """Let the frames pass by; measure the clips of the segment when they are complete."""
        is_new = not isinstance(finder, _KnownSpans)
        # Chunks of clips whose frames are still needed; the last one is being filled.
        held: list[list[Sample]] = [[]]
        for span in self._spans(reader, finder, collector, held, segment):
            if not segment.holds(span.start_s):
                continue
            held[-1].append(_clip_at(self._source, span))
            if is_new:
                yield self._add_clip(span)
            if len(held[-1]) == self._chunk_clips:
                yield from self._overlap.run(self._measure_chunk(held, collector))
        yield from self._overlap.run(self._measure_chunk(held, collector))
        yield from self._overlap.finish()

    def _measure_chunk(self, held: list[list[Sample]], collector: GridCollector) -> Measuring:
        """Measure the last chunk, which is held until that has been done."""
        clips = held[-1]
        held.append([])
        media_of = partial(_media_at, self._source, collector)
        yield from self._measurer.advance(clips, self._rows_of, self._decide, media_of)
        held[:] = [chunk for chunk in held if chunk is not clips]

    def _spans(
        self,
        reader: VideoReader,
        finder: CutFinder,
        collector: GridCollector,
        held: Sequence[Sequence[Sample]],
        segment: Segment,
    ) -> Iterator[Span]:
        """Decode once; yield each span when the collector holds all of its frames; keep those of `held`."""
        for frame in reader:
            collector.push(frame)
            started = time.perf_counter()
            with isolated(MeasureError):
                spans = list(finder.push(frame))
            self._metrics.record(self._splitter.key, seconds=time.perf_counter() - started)
            yield from spans
            open_from_s = finder.open_from_s
            oldest_s = next((clips[0].start_s for clips in held if clips), open_from_s)
            collector.forget_before(math.inf if oldest_s is None else oldest_s)
            is_behind = frame.pts_s >= segment.end_s + OVERRUN_S
            if open_from_s is None or (is_behind and not segment.holds(open_from_s)):
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


def _media_without_pixels(source: Source, sample: Sample, view: View | None) -> Media:
    return without_pixels(source)


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
