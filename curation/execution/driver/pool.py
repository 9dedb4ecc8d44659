"""The driver's loop: gives requests to workers, and goes on whatever becomes of them.

    with Pool(pipeline, ledger, address, progress) as pool:
        metrics = pool.do(tasks, models)

Ray starts processes, places them and moves objects. `schedule` says which request is next, and who is to
blame when a worker dies; `decode_workers` starts, watches and replaces the workers. Nothing is waited for
without a limit: a worker has limits of its own, and what Ray itself does not answer ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from curation.errors import DeviceMemoryFault, WorkerError
from curation.execution.cluster.guard import Guard
from curation.execution.cluster.joining.connection import (
    Connection,
    choose_device,
    connect,
    starts_here,
)
from curation.execution.cluster.joining.shared import SharedFolders, check_nodes
from curation.execution.cluster.results import Died, Lost
from curation.execution.cluster.tasks import A, R, in_process, on_cluster
from curation.execution.cluster.watch import ClusterState, ClusterWatch
from curation.execution.driver.actor import check_travels, start_decode_worker
from curation.execution.driver.attendance import Attendance
from curation.execution.driver.decode_workers import DecodeWorker, DecodeWorkers
from curation.execution.driver.exported import ExportedMetrics, metrics_address
from curation.execution.driver.pass_ledger import PassLedger
from curation.execution.driver.schedule import Schedule
from curation.execution.models.pools import ModelWorkers, NoModelWorkers
from curation.execution.plan import Task
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import Done
from curation.ledger import Ledger
from curation.records import Source

if TYPE_CHECKING:
    from curation.execution.progress import ProgressListener
    from curation.pipeline import Pipeline

FEW_CALLS = 3
"""Up to this many calls take less time than starting Ray."""


class Pool:
    """The workers of a run. They are started with the first task; each does one request at a time."""

    def __init__(
        self,
        pipeline: Pipeline,
        ledger: Ledger,
        address: str | None,
        progress: ProgressListener,
        *,
        shared: SharedFolders | None = None,
        worker_logs: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._ledger = ledger
        self._address = address
        self._progress = progress
        self._worker_logs = worker_logs
        self._shared = shared
        self._marker = ExitStack()
        self._device: Literal["cpu", "cuda"] = "cpu"
        self._connection: Connection | None = None
        self._watch: ClusterWatch | None = None
        self._guard: Guard | None = None
        self._exported: ExportedMetrics | None = None
        start = partial(start_decode_worker, shared=shared)
        self._workers = DecodeWorkers(pipeline.config.run, start, progress, self.ask_cluster)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers at once: what they had not committed is done again by the next run."""
        with ExitStack() as stack:  # the last one first, whatever becomes of the others
            for each in (self._connection, self._watch, self._guard, self._marker):
                if each is not None:
                    stack.callback(each.close)
            stack.callback(self._workers.kill_all)

    @property
    def cluster(self) -> ClusterState:
        """What the cluster has, as far as is known; nothing before the run has connected to it."""
        return self._watch.state if self._watch is not None else ClusterState()

    @property
    def num_workers(self) -> int:
        """Decode workers that the cluster has room for now, of those that are wanted."""
        return max(1, min(self._num_wanted(), self.cluster.num_cpus))

    @property
    def attendance(self) -> Attendance:
        """How many decode workers there were in the last pass."""
        return self._workers.attendance

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
        if self._watch is None:
            settings = self._pipeline.config
            check_travels(self._pipeline)
            fewest = settings.run.workers.min
            self._connection = connect(
                self._address,
                fewest if fewest > 1 else None,
                self._progress.worker_said if self._worker_logs else None,
            )
            self._watch = ClusterWatch()
            self._guard = Guard(self._progress)
            self._watch.check_now()
            if self._shared is not None:
                self._marker.enter_context(self._shared.marked())
                check_nodes(self._shared)
            self._device = choose_device(settings.general.device)
            self._exported = ExportedMetrics(settings.general.name)
            if (address := metrics_address()) is not None:
                self._progress.say(f"metrics for Prometheus: {address}")

    def use(self, pipeline: Pipeline) -> None:
        """Use this pipeline from the next pass on; only the binding of its steps may differ."""
        self._pipeline = pipeline

    def do(self, tasks: Sequence[Task], models: ModelWorkers | None = None) -> Metrics:
        """Do all tasks of a pass.

        Raises:
            EnvironmentFault: workers can't be kept running, or the cluster does not answer.
            CurationError: what a worker raised that concerns no sample.
        """
        self.connect()
        models = models or NoModelWorkers()
        settings = self._pipeline.config.run
        ledger = PassLedger(self._pipeline, self._ledger)
        schedule = Schedule(tasks, ledger, settings.max_kills, self._progress)
        self._workers.begin_pass()
        self._begin_exporting(tasks, schedule)
        while not schedule.is_over:
            self._check_cluster()
            models.check()
            number = min(self._num_wanted(), schedule.num_open)
            self._workers.adjust(number, self._pipeline, self.cluster)
            if schedule.has_next:
                self._give_out(schedule, models)
            self._workers.wait()
            for worker in self._workers.ended():
                self._collect(worker, schedule, models)
            self._export_standing(schedule)
        return schedule.metrics

    def _begin_exporting(self, tasks: Sequence[Task], schedule: Schedule) -> None:
        if self._exported is not None and tasks:
            self._exported.begin(tasks[0].phase, schedule.num_requests)

    def _export(self, value: Done | Source) -> None:
        if self._exported is not None and isinstance(value, Done):
            self._exported.measured(value.metrics)

    def _export_standing(self, schedule: Schedule) -> None:
        if self._exported is not None:
            self._exported.stand(
                num_open=schedule.num_open,
                num_requests=schedule.num_requests,
                num_busy=self._workers.num_busy,
                num_workers=self._workers.number,
            )

    def spread(self, function: Callable[[A], R], arguments: Sequence[A]) -> Iterator[R]:
        """Make independent calls as tasks of the cluster, and yield their results in order.

        A few calls are made in this process if the run has not started Ray, which would take longer.
        """
        if self._watch is None and starts_here(self._address) and len(arguments) <= FEW_CALLS:
            return in_process(function, arguments)
        self.connect()
        return on_cluster(
            function,
            arguments,
            limit=lambda: 2 * self.num_workers,
            check=self._check_cluster,
            timeout_s=self._pipeline.config.run.stall_timeout_s,
        )

    def _num_wanted(self) -> int:
        """Decode workers that there should be; in a cluster of others that may be more than it has room for.

        Those wait for a place meanwhile, which is what makes an autoscaling cluster grow.
        """
        workers = self._pipeline.config.run.workers
        return workers.wanted(self.cluster.num_cpus, can_grow=not self.is_local)

    def _give_out(self, schedule: Schedule, models: ModelWorkers) -> None:
        """Give requests to the workers that are ready."""
        num_to_risk, routes = self._workers.num_to_risk, models.routes()
        for worker in self._workers.ready(self._pipeline):
            worker.start(schedule.take(num_to_risk, worker.node_id), routes)
            if not schedule.has_next:
                break

    def _collect(self, worker: DecodeWorker, schedule: Schedule, models: ModelWorkers) -> None:
        """Take what came of a request."""
        request, results = worker.request, worker.references[1:]
        if request is None:
            return
        try:
            value = self._workers.finish(worker)
        except Died as died:
            if died.is_innocent:
                schedule.put_back(request)
            else:
                schedule.died(request, str(died))
        except Lost:
            schedule.lost(request)
        except WorkerError as error:
            if error.is_blameless:
                schedule.put_back(request)
            else:
                schedule.died(request, str(error))
        except DeviceMemoryFault as fault:
            if not models.relieve(fault):
                raise
            schedule.put_back(request)
        else:
            schedule.done(request, value, *results)
            self._export(value)

    def _check_cluster(self) -> None:
        if self._watch is not None:
            self._watch.check()

    def ask_cluster(self) -> ClusterState:
        """What the cluster has now.

        Raises:
            EnvironmentFault: the cluster does not answer, or Ray on this machine has ended.
        """
        if self._watch is not None:
            self._watch.check_now()
        return self.cluster
