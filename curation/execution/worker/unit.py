"""One task on one unit: the filter pass or the enrich pass over its sources, then one commit per step.

Rows of a step appear together at the unit's end, so a worker that dies leaves either all of them or
none, and doing it again meets the same samples in the same batches and gives the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from curation.errors import ContractError, SampleError
from curation.execution.plan import Task, in_segments, is_shared
from curation.execution.segments import Segment, SegmentResult
from curation.execution.worker.enrich_pass import EnrichPass
from curation.execution.worker.first_reads import FirstReads
from curation.execution.worker.heartbeat import Heartbeat
from curation.execution.worker.image_pass import ImagePass
from curation.execution.worker.measure import KnownRows, Measurer, RowMeasured, failed_row
from curation.execution.worker.metrics import Cause, Metrics
from curation.execution.worker.overlap import ModelClient, Overlap
from curation.execution.worker.unit_rows import UnitRows
from curation.execution.worker.video_pass import ClipFound, SourceMeasured, VideoEvent, VideoPass
from curation.ingest.sources import OpenSource, reading_ahead
from curation.ledger import Ledger
from curation.ledger.unit_state import PROBE, branch_steps, load_unit, source_verdict, unit_verdicts
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, steps_of
from curation.records import Sample, Source
from curation.stage import Stage


class UnitRun:
    """One task of the filter pass or the enrich pass.

    Attributes:
        metrics: What was measured.
        follow_ups: Tasks for the long videos of a new unit, which several workers are to share.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        ledger: Ledger,
        task: Task,
        ready: Callable[[Step], Stage[Any]],
        heartbeat: Heartbeat,
        connect: Callable[[Metrics], ModelClient],
        node_id: str,
    ) -> None:
        """`ready` gives a step's stage with its weights loaded; `connect` the way to the model workers.

        `node_id` is where this process runs.
        """
        self._pipeline = pipeline
        self._ledger = ledger
        self._task = task
        self._heartbeat = heartbeat
        self.metrics = Metrics()
        self.follow_ups: list[Task] = []
        is_new = bool(task.sources)
        self._rows = UnitRows(load_unit(ledger, pipeline, task.unit, recompute=task.recompute, is_new=is_new))
        max_pixels = pipeline.config.general.max_pixels
        self._reads = FirstReads(max_pixels, self.metrics, task.phase, node_id=node_id, copy=task.copy)
        self._models = connect(self.metrics)
        remote = self._models.steps
        self._measurer = Measurer(task.steps, ready, self.metrics, heartbeat.renew, remote=remote)

    @property
    def kind(self) -> str:
        """Of what kind its sources are: all of one, but in units that older versions made."""
        sources = self._rows.state.sources
        return sources[0].kind if sources else ""

    def run(self) -> Metrics:
        """Measure what the task allows and the unit needs, and commit it."""
        if self._task.sources:
            with reading_ahead(self._task.sources, self._heartbeat.renew):
                self._filter_new()
            self._ledger.commit_sources(self._task.unit, self._rows.state.sources)
            self._commit()
            return self.metrics
        sources = [source for source in self._sources() if source.ok]
        images = [source for source in sources if source.kind == "image"]
        videos = [source for source in sources if source.kind == "video"]
        with reading_ahead(self._fetched_whole(sources), self._heartbeat.renew):
            if self._task.phase == "filter":
                self._filter(images, videos)
            else:
                self._enrich(images, videos)
        self._commit()
        return self.metrics

    def process_segment(self, segment: Segment) -> SegmentResult:
        """Process one segment of the task's only video. Nothing is committed."""
        (source,) = self._sources()
        self._heartbeat.renew(source.uri)
        opened = partial(self._reads.opened_again, segment=segment)
        try:
            return self._video_pass(source, opened).process_segment(segment)
        except SampleError as error:
            return SegmentResult(error=error)

    def merge(self, results: Sequence[SegmentResult]) -> Metrics:
        """Merge the segments of the task's only video, measure what is missing, and commit."""
        (source,) = self._sources()
        with self._failing(source):
            self._record_video(source, self._video_pass(source, self._reads.opened_video).merge(results))
        self._commit()
        return self.metrics

    def _sources(self) -> list[Source]:
        """The sources to look at: as named, or all in which something waits for what may be measured."""
        task, state = self._task, self._rows.state
        if task.only is not None:
            return [source for source in state.sources if source.source_id in task.only]
        return [
            verdict.source
            for verdict in unit_verdicts(self._pipeline, state)
            if verdict.source.source_id not in task.excluded and verdict.waits_for(task.steps)
        ]

    def _fetched_whole(self, sources: Iterable[Source]) -> list[Source]:
        """The sources that this task will open, as far as that is known: its images, if pixels are asked for.

        Of how much of a video is looked at, the pass over the video decides.
        """
        stages = [step.stage for step in self._pipeline.steps() if step.key in self._task.steps]
        if not any("image" in stage.kinds and stage.view("image") is not None for stage in stages):
            return []
        return [source for source in sources if source.kind == "image"]

    def _filter_new(self) -> None:
        """Filter the sources of a new unit, which are all of one kind, as they are probed."""
        probed = self._read_first()
        for first in probed:
            sources = chain([first], probed)
            self._filter(*((sources, ()) if first.kind == "image" else ((), sources)))

    def _read_first(self) -> Iterator[Source]:
        """Probe the sources of a new unit one by one; those to be filtered by this task.

        Long videos are left to tasks that follow, which share them among workers and count their bytes.
        """
        for source in self._task.sources:
            self._heartbeat.renew(source.uri)
            started = time.perf_counter()
            probed = self._reads.probe(source)
            seconds = time.perf_counter() - started
            self.metrics.record(PROBE, rows=1, failed=int(not probed.ok), seconds=seconds)
            self._rows.state.sources.append(probed)
            if probed.ok and is_shared(self._pipeline, probed):
                self._leave(probed)
                continue
            self._reads.count_stored(probed)
            if probed.ok:
                yield probed
            else:
                self._reads.close(probed)

    def _leave(self, source: Source) -> None:
        """Leave a long video to a task of its own, with what was fetched of it."""
        judged = source_verdict(self._pipeline, self._rows.state, source)
        if not judged.waits_for(self._task.steps):
            self._reads.close(source)
            return
        only, copy = frozenset([source.source_id]), self._reads.keep(source)
        alone = replace(self._task, sources=(), only=only, num_sources=1, copy=copy)
        self.follow_ups.append(in_segments(self._pipeline, alone, source.duration_s or 0.0))

    def _filter(self, images: Iterable[Source], videos: Iterable[Source]) -> None:
        if images:
            self._record(self._image_pass().filter(images))
        for source in videos:
            with self._failing(source):
                self._record_video(source, self._filter_video(source))
            self._reads.close(source)

    def _image_pass(self) -> ImagePass:
        branch, config = self._pipeline.branches["image"], self._pipeline.config
        return ImagePass(
            branch,
            self._measurer,
            Overlap(self._models),
            self._known(branch_steps(branch)),
            self._count_image,
            reads=self._reads,
            max_pixels=config.general.max_pixels,
            max_bytes=config.run.max_held_bytes,
            short_side=config.general.image_decode_short_side,
        )

    def _filter_video(self, source: Source) -> Iterator[VideoEvent]:
        splitter = self._splitter()
        clips = self._rows.state.spans_of(source, splitter)
        video = self._video_pass(
            source, self._reads.opened_video if self._task.sources else self._opened_again
        )
        if clips:
            inside = [clip for clip in clips if self._task.segment.holds(clip.start_s)]
            return video.filter_known(inside)
        return video.filter() if splitter.key in self._task.steps else iter(())

    @property
    def _opened_again(self) -> OpenSource:
        """Opens a source that was probed by another task, of which this one works on its segment."""
        return partial(self._reads.opened_again, segment=self._task.segment)

    def _video_pass(self, source: Source, opened: OpenSource) -> VideoPass:
        branch = self._pipeline.branches["video"]
        return VideoPass(
            source,
            branch,
            self._measurer,
            Overlap(self._models),
            self._known(branch_steps(branch)),
            decoder=self._pipeline.config.decoder,
            on_frame=self._count_frame,
            opened=opened,
        )

    def _enrich(self, images: Sequence[Source], videos: Sequence[Source]) -> None:
        enrich = EnrichPass(
            self._pipeline.enrich,
            self._measurer,
            Overlap(self._models),
            self._known(list(steps_of(self._pipeline.enrich))),
            self._pipeline.config.decoder,
            on_image=self._count_image,
            on_frame=self._count_frame,
            max_bytes=self._pipeline.config.run.max_held_bytes,
            opened=self._opened_again,
        )
        for source in images:
            self._record(enrich.add_image(source, self._waiting(source)))
        for source in videos:
            with self._failing(source, before=enrich.finish):
                self._record(enrich.add_video(source, self._waiting(source)))
        self._record(enrich.finish())

    def _waiting(self, source: Source) -> list[Sample]:
        """The samples of a source that need a step of this task next, of the task's segment."""
        judged = source_verdict(self._pipeline, self._rows.state, source)
        return [
            leaf.sample
            for leaf in judged.leaves()
            if leaf.verdict.needs is not None
            and leaf.verdict.needs.key in self._task.steps
            and self._task.segment.holds(leaf.sample.start_s)
        ]

    def _known(self, steps: Sequence[Step]) -> KnownRows:
        return lambda sample: self._rows.state.rows_of(sample.sample_id, steps)

    def _splitter(self) -> Step:
        splitter = self._pipeline.branches["video"].splitter
        if splitter is None:
            raise ContractError("videos need a splitter")
        return splitter

    def _count_image(self, uri: str) -> None:
        self._heartbeat.renew(uri)
        self.metrics.images_decoded[self._task.phase] += 1

    def _count_frame(self) -> None:
        self._heartbeat.renew()
        self.metrics.frames_decoded[self._task.phase] += 1

    def _record(self, events: Iterable[RowMeasured]) -> None:
        for event in events:
            self._rows.add(event.step, event.row)

    def _record_video(self, source: Source, events: Iterable[VideoEvent]) -> None:
        splitter = self._splitter()
        for event in events:
            match event:
                case ClipFound():
                    self._rows.add(splitter, event.row)
                    self.metrics.record(splitter.key, rows=1)
                case SourceMeasured():
                    self._rows.complete(splitter, source.source_id, event.values)
                case RowMeasured():
                    self._rows.add(event.step, event.row)

    def _commit(self) -> None:
        cause: Cause = "failed before" if self._task.recompute.only_failed else "recompute"
        self.metrics.causes.update(
            {(key, cause): number for key, number in self._rows.num_again().items() if number}
        )
        self._rows.commit(self._ledger, self._pipeline, self._task)

    @contextmanager
    def _failing(
        self, source: Source, *, before: Callable[[], Iterable[RowMeasured]] = tuple
    ) -> Iterator[None]:
        """Fail a video that can't be decoded; `before` measures what is whole of it nevertheless."""
        self._heartbeat.renew(source.uri)
        try:
            yield
        except SampleError as error:
            self._record(before())
            self._fail_video(source, error)

    def _fail_video(self, source: Source, error: SampleError) -> None:
        """Fail a video as a whole: half of its clips would look like all of them.

        If its clips were known before, what they wait for fails instead.
        """
        splitter, row = self._splitter(), failed_row(source.source_id, error)
        judged = source_verdict(self._pipeline, self._rows.state, source)
        found = {sample.sample.sample_id for sample in judged.samples}
        if not found or found & self._rows.new_ids(splitter):
            self._rows.drop(found)
            self.metrics.record(splitter.key, rows=1, failed=1)
            self._rows.add(splitter, row)
            return
        for leaf in judged.leaves():
            if leaf.verdict.needs is not None and leaf.verdict.needs.key in self._task.steps:
                self._rows.add(leaf.verdict.needs, replace(row, sample_id=leaf.sample.sample_id))
