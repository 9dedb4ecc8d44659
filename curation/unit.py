"""Measures one unit: images chunk by chunk, videos frame by frame, then one commit per step.

Rows of a step appear together at the unit's end, so a worker that dies leaves either all of them or
none, and doing it again meets the same samples in the same batches and gives the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from curation.decide import Rows, Step, Verdict, decide, steps_of
from curation.errors import ContractError, DecodeError, SampleError
from curation.hold import Hold, Pixels
from curation.judge import JudgedSample, branch_steps, decide_sample, judge_source, load_unit
from curation.ledger import Ledger
from curation.measure import Measurer, MediaOf, Tally, failed_row
from curation.media.frame import Frame
from curation.media.readers import ImageReader, VideoReader, without_pixels
from curation.media.views import GridCollector, SpanCollector
from curation.pipeline import Branch, Pipeline
from curation.plan import Task, in_groups
from curation.records import Outcome, Row, Sample, Source
from curation.stage import CutFinder, Media, Span, Splitter, Stage, View, span_row

CHUNK_IMAGES = 16
"""Images that are held decoded at the same time."""
SEEK_OVER_S = 10.0
"""Gaps between kept windows that are not decoded through."""
CHUNK_CLIPS = 8
"""Finished clips of a video that are measured together."""


@dataclass
class Pulse:
    """What a worker is at, for the watchdog: the source, and when it last got on."""

    uri: str = ""
    beat_at: float = field(default_factory=time.monotonic)

    def beat(self, uri: str | None = None) -> None:
        """Note progress."""
        self.uri = self.uri if uri is None else uri
        self.beat_at = time.monotonic()


class UnitRun:
    """One task of the filter or the finish pass."""

    def __init__(
        self,
        pipeline: Pipeline,
        ledger: Ledger,
        task: Task,
        ready: Callable[[Step], Stage[Any]],
        pulse: Pulse,
    ) -> None:
        """`ready` gives a step's stage with its weights loaded."""
        self._pipeline = pipeline
        self._ledger = ledger
        self._task = task
        self._ready = ready
        self._pulse = pulse
        self._tally = Tally()
        self._state = load_unit(ledger, pipeline, task.unit, redo=task.redo)
        self._new: dict[str, list[Row]] = {}
        self._measurer = Measurer(task.steps, ready, self._tally, pulse.beat)
        self._finish_steps = list(steps_of(pipeline.finish))
        self._hold = self._new_hold()

    def run(self) -> Tally:
        """Measure what the task allows and the unit needs, and commit it."""
        only = self._task.only
        sources = [source for source in self._state.sources if only is None or source.source_id in only]
        images = [source for source in sources if source.kind == "image" and source.ok]
        for chunk in in_groups(images, CHUNK_IMAGES):
            self._measure_images(chunk)
        for source in sources:
            if source.kind == "video" and source.ok:
                self._pulse.beat(source.uri)
                self._measure_video(source)
        self._measure_held()
        self._commit()
        return self._tally

    def _advance(
        self,
        samples: Sequence[Sample],
        steps: Sequence[Step],
        judge: Callable[[Rows], Verdict],
        media_of: MediaOf,
    ) -> None:
        def rows_of(sample: Sample) -> Rows:
            return self._state.rows_of(sample.sample_id, steps)

        for step, row in self._measurer.advance(samples, rows_of, judge, media_of):
            self._take(step, row)

    def _take(self, step: Step, row: Row) -> None:
        self._state.add(step, row)
        self._new.setdefault(step.key, []).append(row)

    def _commit(self) -> None:
        steps = {step.key: step for step in self._pipeline.steps()}
        for key, rows in self._new.items():
            step = steps[key]
            replaces = self._replaced(step, rows) if self._task.redo.stages else set()
            columns = step.stage.columns
            self._ledger.commit(
                step.name, step.fingerprint, self._task.unit, rows, columns, replaces=replaces
            )

    def _replaced(self, step: Step, rows: Sequence[Row]) -> set[str]:
        """The rows that new ones take the place of; of a source that was split again, all its clips."""
        replaced = {row.sample_id for row in rows}
        if isinstance(step.stage, Splitter):
            replaced |= {row.values["source_id"] for row in rows if row.ok}
            present = self._ledger.rows(step.name, step.fingerprint, self._task.unit)
            replaced |= {row.sample_id for row in present if row.values.get("source_id") in replaced}
        return replaced

    # Images: one decode for all stages, and only when a stage wants pixels.

    def _measure_images(self, sources: Sequence[Source]) -> None:
        branch = self._pipeline.branches["image"]
        known = {Sample.of_image(source).sample_id: source for source in sources}
        samples = [Sample.of_image(source) for source in sources]
        steps = branch_steps(branch)
        if self._task.phase == "filter":
            reader = ImageReader(known, self._count_image)
            self._advance(samples, steps, partial(decide_sample, branch), reader.media)
            return
        for sample in samples:
            rows = self._state.rows_of(sample.sample_id, steps)
            if decide_sample(branch, rows).outcome is Outcome.KEPT:
                for part in self._pipeline.windows(sample):
                    self._hold_image(known[sample.sample_id], part)

    def _hold_image(self, source: Source, sample: Sample) -> None:
        needs = decide(self._pipeline.finish, self._state.rows_of(sample.sample_id, self._finish_steps)).needs
        if needs is None or needs.key not in self._task.steps:
            return
        reader = ImageReader({sample.sample_id: source}, self._count_image)
        pixels: dict[View, Media | SampleError] = {}
        for view in self._views(sample):
            try:
                pixels[view] = reader.media(sample, view)
            except SampleError as error:
                pixels[view] = error
        self._hold_sample(source, sample, pixels)

    def _count_image(self, uri: str) -> None:
        self._pulse.beat(uri)
        self._tally.images_decoded[self._task.phase] += 1

    # Videos: the frames pass by once; cuts and views are found on the way.

    def _measure_video(self, source: Source) -> None:
        branch = self._pipeline.branches["video"]
        if branch.splitter is None:
            raise ContractError("videos need a splitter")
        try:
            if self._task.phase == "filter":
                self._filter_video(source, branch, branch.splitter)
            else:
                self._finish_video(source)
        except SampleError as error:
            self._fail_video(source, branch.splitter, error)

    def _filter_video(self, source: Source, branch: Branch, splitter: Step) -> None:
        known = self._state.spans_of(source, splitter)
        if not known and splitter.key not in self._task.steps:
            return
        steps = [step for step in steps_of(branch.rule) if step.key in self._task.steps]
        collector = GridCollector(filter(None, (step.stage.view("clip") for step in steps)))
        finder = _KnownSpans(known) if known else _splitter(self._ready(splitter)).start(source)
        judge = partial(decide_sample, branch)
        media_of = partial(_media_of, source, collector)
        clips: list[Sample] = []
        for span in self._spans(source, splitter, finder, collector):
            clip = Sample.of_span(source.source_id, span.start_s, span.end_s)
            if not known:
                self._tally.note(splitter.key, rows=1)
                self._take(splitter, Row(clip.sample_id, span_row(clip, span)))
            clips.append(clip)
            if len(clips) == CHUNK_CLIPS:
                self._advance(clips, branch_steps(branch), judge, media_of)
                clips = []
                collector.forget_before(span.end_s)
        self._advance(clips, branch_steps(branch), judge, media_of)

    def _spans(
        self, source: Source, splitter: Step, finder: CutFinder, collector: GridCollector
    ) -> Iterator[Span]:
        """Decode once; yield each span when the collector holds all of its frames."""
        reader = VideoReader(source, self._count_frame)
        for frame in reader:
            collector.push(frame)
            started = time.perf_counter()
            spans = list(finder.push(frame))
            self._tally.note(splitter.key, seconds=time.perf_counter() - started)
            yield from spans
        if reader.num_frames == 0:
            raise DecodeError("not one frame could be decoded")
        self._tally.frames_held += reader.num_frames
        collector.finish(reader.end_s)
        yield from finder.finish(reader.end_s)

    def _count_frame(self) -> None:
        self._pulse.beat()
        self._tally.frames_decoded[self._task.phase] += 1

    def _finish_video(self, source: Source) -> None:
        judged = judge_source(self._pipeline, self._state, source)
        waiting = [leaf.sample for leaf in judged.leaves() if leaf.verdict.needs in self._finish_steps]
        for group in _neighbors(waiting):
            collector = SpanCollector(group, {view for window in group for view in self._views(window)})
            for frame in VideoReader(source, self._count_frame, group[0].start_s):
                self._hold_windows(source, collector.push(frame), collector)
                if frame.pts_s >= group[-1].end_s:
                    break
            self._hold_windows(source, collector.finish(), collector)

    def _hold_windows(self, source: Source, windows: Iterable[Sample], collector: SpanCollector) -> None:
        for window in windows:
            pixels = {view: collector.media(view, source, window) for view in self._views(window)}
            collector.forget(window)
            self._hold_sample(source, window, pixels)

    # Captions and tokens: whatever the source, samples are measured in batches as large as memory allows.

    def _new_hold(self) -> Hold:
        return Hold(self._pipeline.config.run.max_held_bytes)

    def _views(self, sample: Sample) -> list[View]:
        """What the captioner and the tokenizer still have to see of a kept sample."""
        known = self._state.rows_of(sample.sample_id, self._finish_steps)
        steps = [
            step for step in self._finish_steps if step.key in self._task.steps and step.key not in known
        ]
        views = [step.stage.view(sample.kind) for step in steps]
        return list(dict.fromkeys(view for view in views if view is not None))

    def _hold_sample(self, source: Source, sample: Sample, pixels: Pixels) -> None:
        self._hold.add(source, sample, pixels)
        if self._hold.is_full:
            self._measure_held()

    def _measure_held(self) -> None:
        held, self._hold = self._hold, self._new_hold()
        self._advance(held.samples, self._finish_steps, partial(decide, self._pipeline.finish), held.media)

    def _fail_video(self, source: Source, splitter: Step, error: SampleError) -> None:
        """A video that breaks off is failed as a whole: half of its clips would look like all of them.

        If its clips were known before, what they wait for fails instead.
        """
        self._measure_held()  # what came before the break is whole
        row = failed_row(source.source_id, error)
        judged = judge_source(self._pipeline, self._state, source)
        new = {row.sample_id for row in self._new.get(splitter.key, ())}
        if not judged.samples or any(sample.sample.sample_id in new for sample in judged.samples):
            self._drop(judged.samples)
            self._tally.note(splitter.key, rows=1, failed=1)
            self._take(splitter, row)
            return
        for leaf in judged.leaves():
            if leaf.verdict.needs is not None and leaf.verdict.needs.key in self._task.steps:
                self._take(leaf.verdict.needs, replace(row, sample_id=leaf.sample.sample_id))

    def _drop(self, samples: Iterable[JudgedSample]) -> None:
        """Forget rows that were measured before the video broke off."""
        gone = {judged.sample.sample_id for judged in samples}
        for key, rows in self._new.items():
            self._new[key] = [row for row in rows if row.sample_id not in gone]
            for sample_id in gone & set(self._state.rows.get(key, {})):
                del self._state.rows[key][sample_id]


def _neighbors(windows: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Windows in order of time, grouped where it is cheaper to decode on than to seek."""
    group: list[Sample] = []
    for window in sorted(windows, key=lambda window: window.start_s):
        if group and window.start_s - group[-1].end_s > SEEK_OVER_S:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def _splitter(stage: Stage[Any]) -> Splitter[Any]:
    if not isinstance(stage, Splitter):
        raise ContractError(f"{stage.name} is no splitter")
    return stage


def _media_of(source: Source, collector: GridCollector, sample: Sample, view: View | None) -> Media:
    return collector.media(view, source, sample) if view else without_pixels(source)


class _KnownSpans(CutFinder):
    """Replays cuts that were found earlier, when only other stages are missing."""

    def __init__(self, clips: Sequence[Sample]) -> None:
        self._left = [
            Span(start_s=clip.start_s, end_s=clip.end_s, start_frame=0, end_frame=0) for clip in clips
        ]

    def push(self, frame: Frame) -> Iterator[Span]:
        while self._left and self._left[0].end_s <= frame.pts_s:
            yield self._left.pop(0)

    def finish(self, end_s: float) -> list[Span]:
        return self._left
