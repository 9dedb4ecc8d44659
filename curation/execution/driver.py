"""Workers on Ray: which worker does which unit, and what happens when a worker dies.

    with Pool(pipeline, ledger, address, progress) as pool:
        metrics = pool.do(tasks)

Ray starts processes, places them and moves objects. This module decides the rest. Each worker has one
unit at a time, so a worker that dies names its unit. The sources of that unit are then tried one by one:
the one that kills its worker again is failed, the others are measured. A worker without progress is killed,
and counts as dead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from curation.errors import PoisonSource, WorkerError
from curation.execution.cluster import choose_device, cluster_cpus, connect, starts_here
from curation.execution.models.client import ModelRoutes, RemoteModels
from curation.execution.models.pools import ModelWorkers, NoModelWorkers
from curation.execution.plan import Task
from curation.execution.requests import PendingSegments, Request, requests_of
from curation.execution.segments import SegmentResult
from curation.execution.tasks import A, R, in_process, on_cluster
from curation.execution.worker.measure import Metrics
from curation.execution.worker.worker import UnitWorker, commit_probed, record_poison, record_unlisted
from curation.ledger import Ledger
from curation.ledger.unit_state import PROBE
from curation.records import Source

if TYPE_CHECKING:
    from curation.execution.progress import ProgressListener
    from curation.pipeline import Pipeline

POLL_S = 0.5
FEW_CALLS = 3
"""Up to this many calls take less time than starting Ray."""
CHECK_S = 30.0
"""How often a busy worker is asked for its heartbeat; more often if `stall_timeout_s` is short."""


class _Died(Exception):
    """A worker process is gone."""


class _Lost(Exception):
    """The node that held an argument of a call is gone."""


@dataclass
class _Call:
    """A call that a worker is busy with.

    Attributes:
        worker: The actor.
        refs: References to what it will return.
        asked_at: When it was last asked for its heartbeat.
    """

    worker: Any
    refs: list[Any]
    asked_at: float = field(default_factory=time.monotonic)


class Pool:
    """The workers of a run. They are started with the first task; each does one request at a time."""

    def __init__(
        self, pipeline: Pipeline, ledger: Ledger, address: str | None, progress: ProgressListener
    ) -> None:
        self._pipeline = pipeline
        self._ledger = ledger
        self._address = address
        self._progress = progress
        self._idle: list[Any] = []
        self._num_workers = 0
        self._device: Literal["cpu", "cuda"] = "cpu"
        self._owns_ray = False
        self._actors: list[Any] = []
        self._segments = PendingSegments()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers at once: what they had not committed is done again by the next run."""
        if not self._actors and not self._owns_ray:
            return
        import ray

        for actor in self._actors:
            ray.kill(actor)
        if self._owns_ray:
            ray.shutdown()

    def use(self, pipeline: Pipeline) -> None:
        """Use this pipeline from the next pass on; only the binding of its steps may differ."""
        self._pipeline = pipeline
        for worker in list(self._idle):
            try:
                _result(worker.use.remote(pipeline))
            except _Died:
                self._idle.remove(worker)
                self._drop_worker(worker)

    @property
    def num_workers(self) -> int:
        """Decode workers, once connected."""
        return self._num_workers

    def do(self, tasks: list[Task], models: ModelWorkers | None = None) -> Metrics:
        """Do all tasks of a pass; those whose worker dies are tried again."""
        import ray

        waiting = [request for task in reversed(tasks) for request in reversed(requests_of(task))]
        self._start(len(waiting))
        self._models = models = models or NoModelWorkers()
        metrics, self._segments = Metrics(), PendingSegments()
        busy: dict[Any, tuple[_Call, Request]] = {}
        while waiting or busy:
            while waiting and self._idle:
                worker, request = self._idle.pop(), waiting.pop()
                call = _Call(worker, request.start(worker, models.routes()))
                busy[call.refs[0]] = call, request
            done, _ = ray.wait(list(busy), timeout=POLL_S)
            for ref in done:
                metrics.add(self._collect(*busy.pop(ref)))
            self._kill_silent(call for call, _ in busy.values())
            models.check()
            waiting += self._segments.next_requests()
            waiting = [request for request in waiting if self._segments.wants(request)]
        return metrics

    def spread(self, function: Callable[[A], R], arguments: Sequence[A]) -> Iterator[R]:
        """Make independent calls as tasks of the cluster, and yield their results in order.

        A few calls are made in this process if the run has not started Ray, which would take longer.
        """
        if not self._num_workers and starts_here(self._address) and len(arguments) <= FEW_CALLS:
            return in_process(function, arguments)
        self._connect()
        return on_cluster(function, arguments, limit=2 * self._num_workers)

    def _start(self, num_tasks: int) -> None:
        self._connect()
        while len(self._actors) < min(self._num_workers, num_tasks):
            self._idle.append(self._new_worker())

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where models run, once connected."""
        return self._device

    @property
    def is_local(self) -> bool:
        """Whether the cluster is this machine alone, because the run starts it."""
        return starts_here(self._address)

    def connect(self) -> None:
        """Join the cluster, or start it, if that has not been done."""
        self._connect()

    def _connect(self) -> None:
        if not self._num_workers:
            self._owns_ray = connect(self._address, self._pipeline.config.run.workers)
            self._device = choose_device(self._pipeline.config.general.device)
            self._num_workers = max(1, self._pipeline.config.run.workers or cluster_cpus())

    def _new_worker(self) -> Any:
        worker = _worker_class().remote(self._pipeline)
        self._actors.append(worker)
        return worker

    def _drop_worker(self, worker: Any) -> None:
        import ray

        ray.kill(worker)
        self._actors.remove(worker)

    def _collect(self, call: _Call, request: Request) -> Metrics:
        """The metrics of a finished call; if its worker died, the request is tried again source by source."""
        task = request.task
        try:
            metrics: Metrics = _result(call.refs[0])
        except _Died as died:
            self._progress.say(f"a worker died on unit {task.unit} ({died}); trying its sources one by one")
            self._drop_worker(call.worker)
            self._idle.append(self._new_worker())
            metrics = self._again(request)
        except _Lost:
            self._progress.say(
                f"segments of unit {task.unit} were lost with their node; processing them again"
            )
            self._idle.append(call.worker)
            self._segments.restart(task)
            return Metrics()
        else:
            self._idle.append(self._fresh(call.worker))
            self._keep(request, call.refs)
        if request.segment is None:
            self._progress.advance(task.num_sources)
        return metrics

    def _keep(self, request: Request, refs: Sequence[Any]) -> None:
        """Keep the reference to the result of a segment."""
        for result in refs[1:]:
            self._segments.add(request, result)

    def _again(self, request: Request) -> Metrics:
        """Try a request again whose worker died, so that the culprit is found; its metrics."""
        task = request.task
        if task.phase == "list":
            return self._list_again(task)
        if task.phase == "probe" or task.sources:
            return self._read_one_by_one(task)
        return self._segment_again(request) if task.segments else self._one_by_one(task)

    def _fresh(self, worker: Any) -> Any:
        """The worker, or a new one in its place if it holds too much memory."""
        limit = self._pipeline.config.run.max_rss_bytes
        if limit is None:
            return worker
        try:
            held = _result(worker.rss_bytes.remote())
        except _Died:
            held = math.inf
        if held <= limit:
            return worker
        self._progress.say(f"a worker holds {held / 1e6:.0f} MB: replacing it")
        self._drop_worker(worker)
        return self._new_worker()

    def _list_again(self, task: Task) -> Metrics:
        (container,) = task.sources
        if not self._alone(container.uri, Request(task).start):
            record_unlisted(self._ledger, task, self._pipeline.config.run.max_kills)
        return Metrics()

    def _read_one_by_one(self, task: Task) -> Metrics:
        """Probe the sources of a task, then filter them where the task does both."""
        metrics = self._probe_one_by_one(task)
        if task.phase == "filter":
            metrics.add(self._one_by_one(replace(task, sources=())))
        return metrics

    def _probe_one_by_one(self, task: Task) -> Metrics:
        metrics, probed = Metrics(), []
        for source in task.sources:
            found = self._alone(source.uri, _probing(source))
            if found:
                probed.append(_result(found[0]))
            else:
                error = "killed the worker that read its header"
                probed.append(replace(source, error_type=PoisonSource.__name__, error=error))
            metrics.record(PROBE, rows=1, failed=int(not probed[-1].ok))
        commit_probed(self._pipeline, self._ledger, task, probed)
        return metrics

    def _one_by_one(self, task: Task) -> Metrics:
        metrics = Metrics()
        for source_id, uri in self._uris(task).items():
            single = replace(task, only=frozenset([source_id]))
            refs = self._alone(uri, Request(single).start)
            metrics.add(_result(refs[0]) if refs else self._blame(single))
        return metrics

    def _segment_again(self, request: Request) -> Metrics:
        """Process a segment, or merge all of them, once more; the task has only one source to blame."""
        if not self._segments.wants(request):
            return Metrics()
        (uri,) = self._uris(request.task).values()
        refs = self._alone(uri, request.start)
        if refs:
            self._keep(request, refs)
            metrics: Metrics = _result(refs[0])
            return metrics
        self._segments.give_up(request.task)
        if request.segment is not None:
            self._progress.advance(request.task.num_sources)
        return self._blame(request.task)

    def _uris(self, task: Task) -> dict[str, str]:
        """Source id -> URI of the sources of a task."""
        uris = {source.source_id: source.uri for source in self._ledger.sources(task.unit)}
        return {source_id: uris[source_id] for source_id in sorted(task.only or uris.keys() - task.excluded)}

    def _blame(self, task: Task) -> Metrics:
        """Fail the task's only source, which killed every worker that processed it."""
        (source_id,) = self._uris(task)
        record_poison(self._pipeline, self._ledger, task, source_id, self._pipeline.config.run.max_kills)
        return Metrics()

    def _alone(self, uri: str, start: Callable[[Any, ModelRoutes], list[Any]]) -> list[Any]:
        """Make a call that concerns one source, until it succeeds or has killed `max_kills` workers.

        Returns:
            References to what the call returned; none if it killed its workers.

        Raises:
            CurationError: what the worker raised.
        """
        import ray

        for _ in range(self._pipeline.config.run.max_kills):
            worker = self._idle.pop() if self._idle else self._new_worker()
            call = _Call(worker, start(worker, self._models.routes()))
            while not ray.wait(call.refs[:1], timeout=POLL_S)[0]:
                self._kill_silent([call])
                self._models.check()
            try:
                _result(call.refs[0])
            except _Died as died:
                self._progress.say(f"{uri} killed its worker ({died})")
                self._drop_worker(worker)
            else:
                self._idle.append(worker)
                return call.refs
        return []

    def _kill_silent(self, calls: Iterable[_Call]) -> None:
        """Kill workers without progress; their requests then end as those of any dead worker."""
        import ray

        limit_s = self._pipeline.config.run.stall_timeout_s
        for call in calls:
            if time.monotonic() - call.asked_at < min(limit_s / 2, CHECK_S):
                continue
            call.asked_at = time.monotonic()
            answer = call.worker.silence.remote()
            if not ray.wait([answer], timeout=POLL_S)[0]:
                continue  # still starting
            try:
                uri, silent_s = ray.get(answer)
            except ray.exceptions.RayError:
                continue  # dead already
            if silent_s > limit_s:
                self._progress.say(
                    f"no progress on {uri or 'its models'} for {silent_s:.0f} s: killing the worker"
                )
                ray.kill(call.worker)


def _probing(source: Source) -> Callable[[Any, ModelRoutes], list[Any]]:
    return lambda worker, _: [worker.probe.remote(source)]


def _result(ref: Any) -> Any:
    """The value behind a reference.

    Raises:
        _Died: the worker is gone.
        _Lost: what the worker was to be given is gone.
        CurationError: what the worker raised.
    """
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ray.exceptions.ObjectLostError):
            raise _Lost from error
        if isinstance(error.cause, WorkerError):
            raise _Died(str(error.cause)) from error
        raise error.cause from error
    except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError) as error:
        raise _Died(type(error).__name__) from error


def _worker_class() -> Any:
    """`UnitWorker` as a Ray actor, with a second thread that answers the watchdog."""
    import ray

    @ray.remote(
        num_cpus=1,
        num_gpus=0,
        max_restarts=0,
        concurrency_groups={"watch": 1},
    )
    class Worker:
        def __init__(self, pipeline: Pipeline) -> None:
            self._worker = UnitWorker(pipeline)

        def use(self, pipeline: Pipeline) -> None:
            self._worker.use(pipeline)

        def work(self, task: Task, routes: ModelRoutes) -> Metrics:
            self._worker.ask(partial(RemoteModels, routes))
            return self._worker.work(task)

        @ray.method(num_returns=2)  # type: ignore[untyped-decorator]
        def process_segment(
            self, task: Task, routes: ModelRoutes, number: int
        ) -> tuple[Metrics, SegmentResult]:
            self._worker.ask(partial(RemoteModels, routes))
            return self._worker.process_segment(task, number)

        def merge(self, task: Task, routes: ModelRoutes, *results: SegmentResult) -> Metrics:
            self._worker.ask(partial(RemoteModels, routes))
            return self._worker.merge(task, results)

        def probe(self, source: Source) -> Source:
            return self._worker.probe(source)

        def rss_bytes(self) -> int:
            return self._worker.rss_bytes()

        @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
        def silence(self) -> tuple[str, float]:
            """The current source, and the seconds since the last progress on it."""
            heartbeat = self._worker.heartbeat
            return heartbeat.uri, time.monotonic() - heartbeat.progressed_at

    return Worker
