"""What a worker does with a task. Knows no Ray: the same code runs in a test in this process."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.errors import PoisonSource
from curation.execution.plan import Task
from curation.execution.segments import SegmentResult
from curation.execution.worker.first_reads import FirstReads
from curation.execution.worker.heartbeat import Heartbeat
from curation.execution.worker.loading import load_stage
from curation.execution.worker.measure import failed_row
from curation.execution.worker.metrics import DECODE, Cause, Metrics, PoolMetrics, SpentTime
from curation.execution.worker.overlap import ModelClient, NoModelClient
from curation.execution.worker.stale import drop_rows_of_changed
from curation.execution.worker.unit import UnitRun
from curation.ingest.containers.index import ListingIndex
from curation.ingest.inputs import input_roots
from curation.ingest.reach import FETCHED, watch_inputs
from curation.ingest.sources import reading_ahead
from curation.ledger import Ledger
from curation.ledger.unit_state import PROBE, load_unit, source_verdict
from curation.ledger.versions import num_reread, renew_metadata, settle
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import Source
from curation.stage import Setup, Stage
from curation.storage import open_storage
from curation.storage.scratch import scratch, use_scratch


@dataclass(frozen=True)
class Done:
    """What came of a call for a task, besides what it committed.

    Attributes:
        metrics: What was measured.
        follow_ups: Tasks to do next; left out, they are found when the next pass is planned.
    """

    metrics: Metrics
    follow_ups: Sequence[Task] = ()


class UnitWorker:
    """Works on units, keeping the stages of a pass set up from one unit to the next."""

    def __init__(self, pipeline: Pipeline, node_id: str = "") -> None:
        """`node_id` is where this process runs, as Ray names it."""
        self._pipeline = pipeline
        self._node_id = node_id
        self._connect: Callable[[Metrics], ModelClient] = NoModelClient
        self._ledger = Ledger(open_storage(pipeline.config.general.output))
        self._index = ListingIndex(self._ledger.storage)
        self._ready: dict[str, Stage[Any]] = {}
        self._phase = ""
        self._services: Mapping[str, Mapping[str, str]] = {}
        self._start_cpu_s = time.process_time()
        self._loading = SpentTime()
        self.heartbeat = Heartbeat()
        watch_inputs(input_roots(pipeline.config))
        use_scratch(pipeline.config.run.scratch, pipeline.config.run.scratch_bytes)

    def use(self, pipeline: Pipeline) -> None:
        """Work by this pipeline from now on; stages that are set up stay so."""
        self._pipeline = pipeline

    def ask(self, connect: Callable[[Metrics, Callable[[], None]], ModelClient]) -> None:
        """Have model workers measure their steps from now on.

        `connect` gives the way to them. It counts in the metrics what is sent and waited for, and renews the
        heartbeat while it waits: a model worker that hangs is found by itself.
        """
        self._connect = lambda metrics: connect(metrics, self.heartbeat.renew)

    def work(self, task: Task) -> Done:
        """Do a task and commit what came out.

        Raises:
            CurationError: nothing that concerns one sample alone; those end as failed rows.
        """
        started = self._enter(task)
        if task.phase == "list":
            return Done(self._counted(self._list(task), task, started, "container"))
        if task.phase == "probe":
            return Done(self._counted(self._probe(task), task, started, "source"))
        unit = self._unit(task)
        metrics = self._counted(unit.run(), task, started, unit.kind)
        return Done(metrics, unit.follow_ups)

    def process_segment(self, task: Task, number: int) -> tuple[Metrics, SegmentResult]:
        """Process one of the task's segments; nothing is committed."""
        started, unit = self._enter(task), self._unit(task)
        result = unit.process_segment(task.segments[number])
        return self._counted(unit.metrics, task, started, unit.kind), result

    def merge(self, task: Task, results: Sequence[SegmentResult]) -> Metrics:
        """Merge the task's segments, measure what is still missing, and commit."""
        started, unit = self._enter(task), self._unit(task)
        return self._counted(unit.merge(results), task, started, unit.kind)

    def _enter(self, task: Task) -> SpentTime:
        """Begin with a task; the time."""
        if task.phase != self._phase:
            self._ready.clear()
            self._phase = task.phase
            scratch().close()
        if task.sources:
            # Segments come first, so those of all units but the last are through when there is a new one.
            scratch().next_round()
        self._services = task.services
        self.heartbeat.renew("")
        FETCHED.take()  # what a task that failed has fetched counts nowhere, nor what it loaded
        self._loading = SpentTime()
        return SpentTime.now()

    def _counted(self, metrics: Metrics, task: Task, started: SpentTime, kind: str) -> Metrics:
        """What one call measured, with the time that it took and what it fetched of buckets."""
        if num_bytes := FETCHED.take():
            metrics.bytes_read[task.phase] += num_bytes
        spent = SpentTime.now() - started - self._loading
        pool = PoolMetrics(
            load_s=self._loading.wall_s,
            load_cpu_s=self._loading.cpu_s + self._start_cpu_s,
            busy_s=spent.wall_s,
            num_calls=1,
        )
        metrics.pool(DECODE).add(pool)
        metrics.spend(task.phase, kind, spent)
        self._start_cpu_s, self._loading = 0.0, SpentTime()
        return metrics

    def _unit(self, task: Task) -> UnitRun:
        return UnitRun(
            self._pipeline, self._ledger, task, self._stage, self.heartbeat, self._connect, self._node_id
        )

    def _stage(self, step: Step) -> Stage[Any]:
        """The step's stage with its weights loaded; loaded once per pass.

        Raises: as `load_stage`; nothing that concerns a source.
        """
        if step.key not in self._ready:
            services = self._services.get(step.key, {})
            setup = Setup("cpu", self._pipeline.revisions(step), services)
            started = SpentTime.now()
            with self.heartbeat.load(step.key):
                self._ready[step.key] = load_stage(step, setup)
            self._loading += SpentTime.now() - started
        return self._ready[step.key]

    def _list(self, task: Task) -> Metrics:
        """Look into containers, and keep in the index what they hold."""
        for container in task.sources:
            self.heartbeat.renew(container.uri)
            self._index.list_now(container, self.heartbeat.renew)
        return Metrics()

    def _probe(self, task: Task) -> Metrics:
        """Read the headers of a new unit, or those of an old one whose files are read again."""
        metrics, sources = Metrics(), []
        with reading_ahead(task.sources, self.heartbeat.renew):
            for source in task.sources:
                started = time.perf_counter()
                probed = self._probed(source, metrics)
                sources.append(probed)
                seconds = time.perf_counter() - started
                metrics.record(PROBE, rows=1, failed=int(not probed.ok), seconds=seconds)
        metrics.causes.update(commit_probed(self._pipeline, self._ledger, task, sources))
        return metrics

    @staticmethod
    def rss_bytes() -> int:
        """Memory that this process holds, shared pages included."""
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return resident_pages * resource.getpagesize()

    def probe(self, source: Source) -> Source:
        """The source with what its header says, or with the error that reading it met."""
        return self._probed(source, Metrics())

    def _probed(self, source: Source, metrics: Metrics) -> Source:
        self.heartbeat.renew(source.uri)
        if source.kind == "container":
            return self._index.checked(source, self.heartbeat.renew)
        reads = FirstReads(self._pipeline.config.general.max_pixels, metrics, "probe")
        probed = reads.probe(source)
        reads.count_stored(probed)
        reads.close(probed)
        return probed


def commit_probed(
    pipeline: Pipeline, ledger: Ledger, task: Task, sources: list[Source]
) -> Counter[tuple[str, Cause]]:
    """Write what a probing task found: a new unit, or over the one whose files were read again.

    Returns how many sources were read again, by cause.
    """
    if not task.rewrites:
        ledger.commit_sources(task.unit, sources)
        return Counter()
    known = ledger.sources(task.unit)
    settled = settle(renew_metadata(known, task.renewed), sources)
    # First, so that a run that is killed in between finds the difference again.
    drop_rows_of_changed(pipeline, ledger, task.unit, known, settled)
    ledger.replace_sources(task.unit, settled)
    causes: Counter[tuple[str, Cause]] = Counter()
    for cause, number in num_reread(known, settled).items():
        causes[PROBE, cause] += number
    failed = {(source.uri, source.etag) for source in known if not source.ok}
    causes[PROBE, "failed before"] += sum((source.uri, source.etag) in failed for source in task.sources)
    return causes


def record_unlisted(ledger: Ledger, task: Task, kills: int) -> None:
    """Note that the task's containers kill whoever lists them, so that they are failed sources."""
    for container in task.sources:
        error = f"killed its worker {kills} times when it was listed"
        ListingIndex(ledger.storage).give_up(container, PoisonSource.__name__, error)


def record_poison(pipeline: Pipeline, ledger: Ledger, task: Task, source_id: str, kills: int) -> None:
    """Write FAILED rows for a source that keeps killing its workers, wherever it waits in this task."""
    error = PoisonSource(f"killed its worker {kills} times in the {task.phase} pass")
    state = load_unit(ledger, pipeline, task.unit, recompute=task.recompute)
    source = next(source for source in state.sources if source.source_id == source_id)
    judged = source_verdict(pipeline, state, source)
    waiting = [(leaf.verdict.needs, leaf.sample.sample_id) for leaf in judged.leaves()]
    for step, sample_id in waiting or [(judged.verdict.needs, source_id)]:
        if step is not None and step.key in task.steps:
            replaces = [sample_id] if task.recompute.stages else []
            rows = [failed_row(sample_id, error)]
            ledger.commit(step.name, step.fingerprint, task.unit, rows, step.stage.columns, replaces=replaces)
