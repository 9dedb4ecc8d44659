"""What a worker does with one unit. Knows no Ray: the same code runs in a test in this process.

Everything measured for a unit is committed at its end, one file per step, so that a worker that dies
leaves either all rows of a step or none, and doing it again gives the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from curation.decide import Rows, Step, decide, steps_of
from curation.errors import ContractError, DecodeError, PoisonSource, SampleError
from curation.judge import PROBE, branch_steps, decide_sample, judge_source, load_unit
from curation.ledger import Ledger
from curation.measure import Measurer, Tally, failed_row
from curation.media.decode import decode_video
from curation.media.frame import Frame
from curation.media.image import read_image
from curation.media.probe import probe
from curation.media.resize import resize
from curation.media.views import GridCollector, SpanCollector
from curation.pipeline import Branch, Pipeline
from curation.plan import Task, in_groups
from curation.records import Row, Sample, Source
from curation.stage import CutFinder, Media, Setup, Span, Splitter, Stage, View, span_row
from curation.storage import open_storage

CHUNK_IMAGES = 16
"""Images that are held decoded at the same time."""
CHUNK_CLIPS = 8
"""Finished clips of a video that are measured together."""
NO_PIXELS = np.empty((0, 0, 0, 3), np.uint8)


@dataclass
class Pulse:
    """What a worker is at, for the watchdog: the source, and when it last got on."""

    uri: str = ""
    beat_at: float = field(default_factory=time.monotonic)

    def beat(self, uri: str | None = None) -> None:
        """Note progress."""
        self.uri = self.uri if uri is None else uri
        self.beat_at = time.monotonic()


class UnitWorker:
    """Works on units, keeping the stages of a pass set up from one unit to the next."""

    def __init__(self, pipeline: Pipeline, device: Literal["cpu", "cuda"]) -> None:
        self._pipeline = pipeline
        self._device = device
        self._ledger = Ledger(open_storage(pipeline.config.general.output))
        self._ready: dict[str, Stage[Any]] = {}
        self._phase = ""
        self.pulse = Pulse()

    def work(self, task: Task) -> Tally:
        """Do a task and commit what came out.

        Raises:
            CurationError: nothing that concerns one sample alone; those end as failed rows.
        """
        if task.phase != self._phase:
            self._ready.clear()
            self._phase = task.phase
        self.pulse.beat("")
        if task.phase == "probe":
            return self._probe(task)
        return _UnitRun(self._pipeline, self._ledger, task, self._stage, self.pulse).run()

    def _stage(self, step: Step) -> Stage[Any]:
        """The step's stage with its weights loaded; loaded once per pass."""
        if step.key not in self._ready:
            step.stage.setup(Setup(self._device, self._pipeline.revisions(step)))
            self._ready[step.key] = step.stage
            self.pulse.beat()
        return self._ready[step.key]

    def _probe(self, task: Task) -> Tally:
        """Read the headers of a new unit, or those of an old one that failed."""
        redoes = bool(task.redo.stages)
        tally, sources = Tally(), []
        for source in task.sources:
            started = time.perf_counter()
            again = not redoes or task.redo.drops(PROBE, not source.ok)
            probed = self.probe(source) if again else source
            sources.append(probed)
            tally.note(PROBE, rows=1, failed=int(not probed.ok), seconds=time.perf_counter() - started)
        if redoes:
            self._ledger.replace_sources(task.unit, sources)
        else:
            self._ledger.commit_sources(task.unit, sources)
        return tally

    def probe(self, source: Source) -> Source:
        """The source with what its header says, or with the error that reading it met."""
        self.pulse.beat(source.uri)
        with opened(source) as path:
            return probe(replace(source, error_type=None, error=None), path)


@contextmanager
def opened(source: Source) -> Iterator[Path]:
    """The source as a file on this machine."""
    root, _, key = source.uri.rpartition("/")
    with open_storage(root).local_path(key) as path:
        yield path


class _UnitRun:
    """One task of the filter or the finish pass: read the unit, measure, commit."""

    def __init__(self, pipeline: Pipeline, ledger: Ledger, task: Task, ready: Any, pulse: Pulse) -> None:
        self._pipeline = pipeline
        self._ledger = ledger
        self._task = task
        self._pulse = pulse
        self._tally = Tally()
        self._state = load_unit(ledger, pipeline, task.unit, redo=task.redo)
        self._new: dict[str, list[Row]] = {}
        self._measurer = Measurer(task.steps, ready, self._tally, pulse.beat)
        self._splitters: dict[str, Splitter[Any]] = {}
        self._ready = ready

    def run(self) -> Tally:
        only = self._task.only
        sources = [source for source in self._state.sources if only is None or source.source_id in only]
        images = [source for source in sources if source.kind == "image"]
        for chunk in in_groups(images, CHUNK_IMAGES):
            self._measure_images(chunk)
        for source in sources:
            if source.kind == "video":
                self._pulse.beat(source.uri)
                self._measure_video(source)
        self._commit()
        return self._tally

    def _take(self, step: Step, row: Row) -> None:
        self._state.add(step, row)
        self._new.setdefault(step.key, []).append(row)

    def _commit(self) -> None:
        steps = {step.key: step for step in self._pipeline.steps()}
        for key, rows in self._new.items():
            step = steps[key]
            replaced = {row.sample_id for row in rows} if self._task.redo.stages else set()
            if key in self._splitters and replaced:
                replaced |= self._rows_of_resplit(step, rows)
            self._ledger.commit(
                step.name, step.fingerprint, self._task.unit, rows, step.stage.columns, replaces=replaced
            )

    def _rows_of_resplit(self, step: Step, rows: list[Row]) -> set[str]:
        """Earlier clips of sources that were split again, and the failures of those that split now."""
        sources = {row.values["source_id"] for row in rows if row.ok}
        present = self._ledger.rows(step.name, step.fingerprint, self._task.unit)
        return sources | {row.sample_id for row in present if row.values.get("source_id") in sources}

    # Images: one decode for all stages, only when a stage wants pixels.

    def _measure_images(self, sources: Iterable[Source]) -> None:
        branch = self._pipeline.branches["image"]
        known = {Sample.of_image(source).sample_id: source for source in sources if source.ok}
        samples = [Sample.of_image(source) for source in known.values()]
        reader = _ImageReader(known, self._pulse, self._tally, self._task.phase)
        if self._task.phase == "filter":
            self._advance(samples, branch_steps(branch), partial(decide_sample, branch), reader.media)
        else:
            kept = [sample for sample in samples if self._is_kept(branch, sample)]
            windows = [window for sample in kept for window in self._pipeline.windows(sample)]
            self._advance(windows, self._finish_steps, partial(decide, self._pipeline.finish), reader.media)

    def _is_kept(self, branch: Branch, sample: Sample) -> bool:
        rows = self._state.rows_of(sample.sample_id, branch_steps(branch))
        return decide_sample(branch, rows).outcome == "kept"

    @property
    def _finish_steps(self) -> list[Step]:
        return list(steps_of(self._pipeline.finish))

    def _advance(self, samples: list[Sample], steps: list[Step], judge: Any, media_of: Any) -> None:
        def rows_of(sample: Sample) -> Rows:
            return self._state.rows_of(sample.sample_id, steps)

        for step, row in self._measurer.advance(samples, rows_of, judge, media_of):
            self._take(step, row)

    # Videos: frames pass by once; cuts and views are found on the way.

    def _measure_video(self, source: Source) -> None:
        branch = self._pipeline.branches["video"]
        try:
            if self._task.phase == "filter":
                self._filter_video(source, branch)
            else:
                self._finish_video(source, branch)
        except SampleError as error:
            self._fail_video(source, branch, error)

    def _fail_video(self, source: Source, branch: Branch, error: Exception) -> None:
        """A video that breaks off is failed as a whole: half of its clips would look like all of them."""
        row = failed_row(source.source_id, error)
        splitter = branch.splitter
        if splitter is None:
            return
        judged = judge_source(self._pipeline, self._state, source)
        if not judged.samples or self._was_split_now(source, splitter):
            self._drop_new(source, judged.samples)
            self._take(splitter, row)
            return
        for leaf in judged.leaves():
            if leaf.verdict.needs is not None and leaf.verdict.needs.key in self._task.steps:
                self._take(leaf.verdict.needs, replace(row, sample_id=leaf.sample.sample_id))

    def _was_split_now(self, source: Source, splitter: Step) -> bool:
        return any(row.values.get("source_id") == source.source_id for row in self._new.get(splitter.key, []))

    def _drop_new(self, source: Source, samples: Iterable[Any]) -> None:
        gone = {judged.sample.sample_id for judged in samples}
        for key, rows in self._new.items():
            self._new[key] = [row for row in rows if row.sample_id not in gone]
            for sample_id in gone & set(self._state.rows.get(key, {})):
                del self._state.rows[key][sample_id]

    def _filter_video(self, source: Source, branch: Branch) -> None:
        splitter = branch.splitter
        if splitter is None:
            raise ContractError("videos need a splitter")
        known = self._state.spans_of(source, splitter)
        if not known and splitter.key not in self._task.steps:
            return
        steps = [
            step for step in branch_steps(branch) if step is not splitter and step.key in self._task.steps
        ]
        collector = GridCollector(filter(None, (step.stage.view("clip") for step in steps)))
        finder = _KnownSpans(known) if known else self._splitter(splitter).start(source)
        clips: list[Sample] = []
        for spans in self._spans(source, finder, collector):
            for span in spans:
                clips.append(self._clip(source, splitter, span, is_new=not known))
                if len(clips) == CHUNK_CLIPS:
                    self._filter_clips(source, branch, clips, collector)
                    clips = []
                    collector.forget_before(span.end_s)
            if not clips:
                collector.forget_before(finder.open_from_s)
        self._filter_clips(source, branch, clips, collector)

    def _splitter(self, step: Step) -> Splitter[Any]:
        stage = self._ready(step)
        if not isinstance(stage, Splitter):
            raise ContractError(f"{step.key} is no splitter")
        self._splitters[step.key] = stage
        return stage

    def _spans(self, source: Source, finder: CutFinder, collector: GridCollector) -> Iterator[list[Span]]:
        """Decode once; yield the spans that are complete, when the collector holds all of their frames."""
        clock = _Clock(source)
        for frame in self._frames(source, clock):
            collector.push(frame)
            yield list(finder.push(frame))
        if clock.num_frames == 0:
            raise DecodeError("not one frame could be decoded")
        self._tally.frames_held += clock.num_frames
        collector.finish(clock.end_s)
        yield list(finder.finish(clock.end_s))

    def _frames(self, source: Source, clock: _Clock) -> Iterator[Frame]:
        with opened(source) as path:
            for frame in decode_video(path):
                clock.tick(frame)
                self._tally.frames_decoded[self._task.phase] += 1
                self._pulse.beat()
                yield frame

    def _clip(self, source: Source, splitter: Step, span: Span, *, is_new: bool) -> Sample:
        clip = Sample.of_span(source.source_id, span.start_s, span.end_s)
        if is_new:
            self._tally.note(splitter.key, rows=1)
            self._take(splitter, Row(clip.sample_id, span_row(clip, span)))
        return clip

    def _filter_clips(
        self, source: Source, branch: Branch, clips: list[Sample], collector: GridCollector
    ) -> None:
        def media_of(sample: Sample, view: View | None) -> Media:
            return collector.media(view, source, sample) if view else Media(source, NO_PIXELS, np.empty(0))

        self._advance(clips, branch_steps(branch), partial(decide_sample, branch), media_of)

    def _finish_video(self, source: Source, branch: Branch) -> None:
        judged = judge_source(self._pipeline, self._state, source)
        waiting = [leaf.sample for leaf in judged.leaves() if leaf.verdict.needs in self._finish_steps]
        steps = [step for step in self._finish_steps if step.key in self._task.steps]
        collector = SpanCollector(waiting, filter(None, (step.stage.view("clip") for step in steps)))
        last_s = max((window.end_s for window in waiting), default=0.0)
        for frame in self._frames(source, _Clock(source)):
            self._finish_windows(source, collector.push(frame), collector)
            if frame.pts_s >= last_s:
                break
        self._finish_windows(source, collector.finish(), collector)

    def _finish_windows(self, source: Source, windows: list[Sample], collector: SpanCollector) -> None:
        def media_of(sample: Sample, view: View | None) -> Media:
            return collector.media(view, source, sample) if view else Media(source, NO_PIXELS, np.empty(0))

        for window in windows:
            self._advance([window], self._finish_steps, partial(decide, self._pipeline.finish), media_of)
            collector.forget(window)


class _Clock:
    """When the source ends: after the last frame, which lasts as long as the one before it did."""

    def __init__(self, source: Source) -> None:
        self._interval_s = float(1 / source.frame_rate) if source.frame_rate else 0.04
        self._last_s: float | None = None
        self.num_frames = 0

    def tick(self, frame: Frame) -> None:
        if self._last_s is not None and frame.pts_s > self._last_s:
            self._interval_s = frame.pts_s - self._last_s
        self._last_s = frame.pts_s
        self.num_frames += 1

    @property
    def end_s(self) -> float:
        return round((self._last_s or 0.0) + self._interval_s, 6)


class _KnownSpans(CutFinder):
    """Replays cuts that were found earlier, when only other stages are missing."""

    def __init__(self, clips: list[Sample]) -> None:
        self._left = [
            Span(start_s=clip.start_s, end_s=clip.end_s, start_frame=0, end_frame=0) for clip in clips
        ]
        self.open_from_s = clips[0].start_s

    def push(self, frame: Frame) -> list[Span]:
        done = []
        while self._left and self._left[0].end_s <= frame.pts_s:
            done.append(self._left.pop(0))
            self.open_from_s = done[-1].end_s
        return done

    def finish(self, end_s: float) -> list[Span]:
        return self._left


class _ImageReader:
    """Decodes each image of a chunk at most once."""

    def __init__(self, sources: dict[str, Source], pulse: Pulse, tally: Tally, phase: str) -> None:
        self._sources = sources
        self._pixels: dict[str, Any] = {}
        self._pulse = pulse
        self._tally = tally
        self._phase = phase

    def media(self, sample: Sample, view: View | None) -> Media:
        source = self._sources[sample.sample_id]
        if view is None:
            return Media(source, NO_PIXELS, np.empty(0))
        return Media(source, resize(self._decoded(sample, source), view)[np.newaxis], np.zeros(1))

    def _decoded(self, sample: Sample, source: Source) -> Any:
        if sample.sample_id not in self._pixels:
            self._pulse.beat(source.uri)
            self._tally.images_decoded[self._phase] += 1
            try:
                with opened(source) as path:
                    self._pixels[sample.sample_id] = read_image(path)
            except SampleError as error:
                self._pixels[sample.sample_id] = error
        pixels = self._pixels[sample.sample_id]
        if isinstance(pixels, SampleError):
            raise pixels
        return pixels


def record_poison(pipeline: Pipeline, ledger: Ledger, task: Task, source_id: str, kills: int) -> None:
    """Write FAILED rows for a source that keeps killing its workers, wherever it waits in this task."""
    error = PoisonSource(f"killed its worker {kills} times in the {task.phase} pass")
    state = load_unit(ledger, pipeline, task.unit, redo=task.redo)
    source = next(source for source in state.sources if source.source_id == source_id)
    judged = judge_source(pipeline, state, source)
    waiting = [(leaf.verdict.needs, leaf.sample.sample_id) for leaf in judged.leaves()]
    for step, sample_id in waiting or [(judged.verdict.needs, source_id)]:
        if step is not None and step.key in task.steps:
            replaces = [sample_id] if task.redo.stages else []
            rows = [failed_row(sample_id, error)]
            ledger.commit(step.name, step.fingerprint, task.unit, rows, step.stage.columns, replaces=replaces)
