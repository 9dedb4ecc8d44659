"""Measures one unit: images chunk by chunk, videos frame by frame, then one commit per step.

Rows of a step appear together at the unit's end, so a worker that dies leaves either all of them or
none, and doing it again meets the same samples in the same batches and gives the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from curation.errors import ContractError, SampleError
from curation.execution.plan import Task, source_segments
from curation.execution.segments import Segment, neighbors
from curation.execution.worker.first_reads import FirstReads
from curation.execution.worker.frame_buffer import FrameBuffer, Pixels, chunks_of
from curation.execution.worker.measure import Measurer, MediaOf, Metrics, failed_row
from curation.execution.worker.video_pass import SegmentResult, VideoPass
from curation.ingest.media_readers import ImageReader, VideoReader
from curation.ledger import Ledger
from curation.ledger.unit_state import (
    PROBE,
    SampleVerdict,
    branch_steps,
    decide_sample,
    load_unit,
    source_verdict,
)
from curation.media.views import SpanCollector
from curation.pipeline import Pipeline
from curation.pipeline.rules import Rows, Step, Verdict, decide, steps_of
from curation.records import Outcome, Row, Sample, Source, SourceKind
from curation.splitter import Splitter
from curation.stage import Media, Stage, View


@dataclass
class Heartbeat:
    """What a worker is at, for the watchdog: the source, and when it last got on."""

    uri: str = ""
    progressed_at: float = field(default_factory=time.monotonic)

    def renew(self, uri: str | None = None) -> None:
        """Note progress."""
        self.uri = self.uri if uri is None else uri
        self.progressed_at = time.monotonic()


class UnitRun:
    """One task of the filter or the finish pass."""

    def __init__(
        self,
        pipeline: Pipeline,
        ledger: Ledger,
        task: Task,
        ready: Callable[[Step], Stage[Any]],
        heartbeat: Heartbeat,
    ) -> None:
        """`ready` gives a step's stage with its weights loaded."""
        self._pipeline = pipeline
        self._ledger = ledger
        self._task = task
        self.ready = ready
        self._heartbeat = heartbeat
        self.metrics = Metrics()
        self.state = load_unit(
            ledger, pipeline, task.unit, recompute=task.recompute, is_new=bool(task.sources)
        )
        self._reads = FirstReads(pipeline.config.general.max_pixels, self.count_read)
        self._new: dict[str, list[Row]] = {}
        self._measurer = Measurer(task.steps, ready, self.metrics, heartbeat.renew)
        self._enrich_steps = list(steps_of(pipeline.enrich))
        self._buffer = self._new_buffer()

    def run(self) -> Metrics:
        """Measure what the task allows and the unit needs, and commit it."""
        for chunk in chunks_of(self._usable("image"), self._pipeline.config.run.max_held_bytes):
            self._measure_images(chunk)
        for source in self._usable("video"):
            self._heartbeat.renew(source.uri)
            self._measure_video(source)
        self._measure_buffered()
        self._commit()
        return self.metrics

    @property
    def allowed(self) -> frozenset[str]:
        """Keys of the steps that may be measured."""
        return self._task.steps

    def advance(
        self,
        samples: Sequence[Sample],
        steps: Sequence[Step],
        judge: Callable[[Rows], Verdict],
        media_of: MediaOf,
    ) -> None:
        """Measure what the samples need."""

        def rows_of(sample: Sample) -> Rows:
            return self.state.rows_of(sample.sample_id, steps)

        for step, row in self._measurer.advance(samples, rows_of, judge, media_of):
            self.take(step, row)

    def take(self, step: Step, row: Row) -> None:
        """Note a new row."""
        self.state.add(step, row)
        self._new.setdefault(step.key, []).append(row)

    def complete(self, step: Step, source: Source, values: Mapping[str, Any]) -> None:
        """Fill in what only the end of a source tells, in the new rows of its clips."""
        rows = self._new.get(step.key, [])
        for number, row in enumerate(rows):
            if row.values.get("source_id") == source.source_id:
                rows[number] = replace(row, values={**row.values, **values})
                self.state.add(step, rows[number])

    def _commit(self) -> None:
        if self._task.sources:
            self._ledger.commit_sources(self._task.unit, self.state.sources)
        steps = {step.key: step for step in self._pipeline.steps()}
        for key, rows in self._new.items():
            step = steps[key]
            replaces = self._replaced(step, rows) if self._task.recompute.stages else set()
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
            reader = self._image_reader(known)
            self.advance(samples, steps, partial(decide_sample, branch), reader.media)
            for source in sources:
                self._reads.close(source)
            return
        for sample in samples:
            rows = self.state.rows_of(sample.sample_id, steps)
            if decide_sample(branch, rows).outcome is Outcome.KEPT:
                for part in self._pipeline.windows(sample):
                    self._buffer_image(known[sample.sample_id], part)

    def _buffer_image(self, source: Source, sample: Sample) -> None:
        needs = decide(self._pipeline.enrich, self.state.rows_of(sample.sample_id, self._enrich_steps)).needs
        if needs is None or needs.key not in self._task.steps:
            return
        reader = self._image_reader({sample.sample_id: source})
        pixels: dict[View, Media | SampleError] = {}
        for view in self._views(sample):
            try:
                pixels[view] = reader.media(sample, view)
            except SampleError as error:
                pixels[view] = error
        self._buffer_sample(source, sample, pixels)

    def _image_reader(self, sources: Mapping[str, Source]) -> ImageReader:
        """`sources` by sample id."""
        general = self._pipeline.config.general
        short_side = general.image_decode_short_side if self._task.phase == "filter" else None
        return ImageReader(sources, self._count_image, general.max_pixels, self._opened_image, short_side)

    def _opened_image(self, source: Source) -> AbstractContextManager[Path]:
        self._count_stored(source)
        return self._reads.opened(source)

    def _count_stored(self, source: Source) -> None:
        """A source is opened; those of a new unit have been counted when they were probed."""
        if not self._task.sources:
            self.metrics.bytes_stored[self._task.phase] += source.size_bytes

    def _count_image(self, uri: str) -> None:
        self._heartbeat.renew(uri)
        self.metrics.images_decoded[self._task.phase] += 1

    # Videos: `VideoPass` filters them; kept clips are decoded again.

    def process_segment(self, part: Segment) -> SegmentResult:
        """Look at one part of the task's only video. Nothing is committed."""
        (source,) = self._sources()
        self._heartbeat.renew(source.uri)
        self._count_stored(source)
        try:
            results = self._video_pass(source).process_segment(part)
        except SampleError as error:
            return SegmentResult(error=error, metrics=self.metrics)
        return replace(results, rows=self._new, metrics=self.metrics)

    def merge(self, results: Sequence[SegmentResult]) -> Metrics:
        """Put the parts of the task's only video together, measure what is left, and commit."""
        (source,) = self._sources()
        self._heartbeat.renew(source.uri)
        error = next((item.error for item in results if item.error is not None), None)
        try:
            if error is not None:
                raise error
            self._video_pass(source).merge(results)
        except SampleError as broken:
            self._fail_video(source, broken)
        self._commit()
        return self.metrics

    def _video_pass(self, source: Source) -> VideoPass:
        return VideoPass(self, source, self._pipeline.branches["video"], self._pipeline.config.decoder)

    def _sources(self) -> list[Source]:
        only = self._task.only
        return [source for source in self.state.sources if only is None or source.source_id in only]

    def _usable(self, kind: SourceKind) -> Iterator[Source]:
        """The task's sources of one kind that can be used; of a new unit, probed as they come."""
        for source in self._task.sources or self._sources():
            if source.kind != kind:
                continue
            found = self._probed(source) if self._task.sources else source
            if found.ok and not (self._task.sources and self._has_segments(found)):
                yield found

    def _probed(self, source: Source) -> Source:
        self._heartbeat.renew(source.uri)
        started = time.perf_counter()
        probed = self._reads.probe(source)
        seconds = time.perf_counter() - started
        self.metrics.record(PROBE, rows=1, failed=int(not probed.ok), seconds=seconds)
        self.metrics.bytes_stored[self._task.phase] += probed.size_bytes
        self.state.sources.append(probed)
        return probed

    def _has_segments(self, source: Source) -> bool:
        """Whether several workers can share a source, once it is known how long it is."""
        return len(source_segments(self._pipeline, source)) > 1

    def count_read(self, num_bytes: int) -> None:
        """Bytes of a source have been fetched from where it is stored."""
        self.metrics.record_read(self._task.phase, num_bytes)

    def _measure_video(self, source: Source) -> None:
        self._count_stored(source)
        try:
            if self._task.phase == "filter":
                self._video_pass(source).filter(self._task.part)
            else:
                self._enrich_video(source)
        except SampleError as error:
            self._fail_video(source, error)

    def count_frame(self) -> None:
        """A frame has been decoded."""
        self._heartbeat.renew()
        self.metrics.frames_decoded[self._task.phase] += 1

    def _enrich_video(self, source: Source) -> None:
        judged = source_verdict(self._pipeline, self.state, source)
        waiting = [
            leaf.sample
            for leaf in judged.leaves()
            if leaf.verdict.needs in self._enrich_steps and self._task.part.holds(leaf.sample.start_s)
        ]
        decoder = self._pipeline.config.decoder
        for group in neighbors(waiting, can_seek=not source.clock_jumps):
            collector = SpanCollector(group, {view for window in group for view in self._views(window)})
            for frame in VideoReader(source, decoder, self.count_frame, group[0].start_s, self.count_read):
                self._buffer_windows(source, collector.push(frame), collector)
                if frame.pts_s >= group[-1].end_s:
                    break
            self._buffer_windows(source, collector.finish(), collector)

    def _buffer_windows(self, source: Source, windows: Iterable[Sample], collector: SpanCollector) -> None:
        for window in windows:
            pixels = {view: collector.media(view, source, window) for view in self._views(window)}
            collector.forget(window)
            self._buffer_sample(source, window, pixels)

    # Captions and tokens: whatever the source, samples are measured in batches as large as memory allows.

    def _new_buffer(self) -> FrameBuffer:
        return FrameBuffer(self._pipeline.config.run.max_held_bytes)

    def _views(self, sample: Sample) -> list[View]:
        """What the captioner and the tokenizer still have to see of a kept sample."""
        known = self.state.rows_of(sample.sample_id, self._enrich_steps)
        steps = [
            step for step in self._enrich_steps if step.key in self._task.steps and step.key not in known
        ]
        views = [step.stage.view(sample.kind) for step in steps]
        return list(dict.fromkeys(view for view in views if view is not None))

    def _buffer_sample(self, source: Source, sample: Sample, pixels: Pixels) -> None:
        self._buffer.add(source, sample, pixels)
        if self._buffer.is_full:
            self._measure_buffered()

    def _measure_buffered(self) -> None:
        held, self._buffer = self._buffer, self._new_buffer()
        self.advance(held.samples, self._enrich_steps, partial(decide, self._pipeline.enrich), held.media)

    def _fail_video(self, source: Source, error: SampleError) -> None:
        """A video that breaks off is failed as a whole: half of its clips would look like all of them.

        If its clips were known before, what they wait for fails instead.
        """
        self._measure_buffered()  # what came before the break is whole
        splitter = self._pipeline.branches["video"].splitter
        if splitter is None:
            raise ContractError("videos need a splitter")
        row = failed_row(source.source_id, error)
        judged = source_verdict(self._pipeline, self.state, source)
        new = {row.sample_id for row in self._new.get(splitter.key, ())}
        if not judged.samples or any(sample.sample.sample_id in new for sample in judged.samples):
            self._drop(judged.samples)
            self.metrics.record(splitter.key, rows=1, failed=1)
            self.take(splitter, row)
            return
        for leaf in judged.leaves():
            if leaf.verdict.needs is not None and leaf.verdict.needs.key in self._task.steps:
                self.take(leaf.verdict.needs, replace(row, sample_id=leaf.sample.sample_id))

    def _drop(self, samples: Iterable[SampleVerdict]) -> None:
        """Forget rows that were measured before the video broke off."""
        gone = {judged.sample.sample_id for judged in samples}
        for key, rows in self._new.items():
            self._new[key] = [row for row in rows if row.sample_id not in gone]
            for sample_id in gone & set(self.state.rows.get(key, {})):
                del self.state.rows[key][sample_id]
