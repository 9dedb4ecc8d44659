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
from curation.execution.cluster.connection import (
    Connection,
    choose_device,
    cluster_cpus,
    connect,
    starts_here,
)
from curation.execution.cluster.results import Died, Lost
from curation.execution.cluster.shared import SharedFolders, check_nodes
from curation.execution.cluster.tasks import A, R, in_process, on_cluster
from curation.execution.cluster.watch import ClusterWatch
from curation.execution.driver.actor import check_travels, start_decode_worker
from curation.execution.driver.decode_workers import DecodeWorker, DecodeWorkers
from curation.execution.driver.pass_ledger import PassLedger
from curation.execution.driver.schedule import Schedule
from curation.execution.models.pools import ModelWorkers, NoModelWorkers
from curation.execution.plan import Task
from curation.execution.worker.metrics import Metrics
from curation.ledger import Ledger

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
        self._num_workers = 0
        self._device: Literal["cpu", "cuda"] = "cpu"
        self._connection: Connection | None = None
        self._watch: ClusterWatch | None = None
        self._workers = DecodeWorkers(
            pipeline.config.run,
            partial(start_decode_worker, shared=shared),
            progress,
            self._check_cluster_now,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers at once: what they had not committed is done again by the next run."""
        self._workers.kill_all()
        self._marker.close()
        if self._connection is not None:
            self._connection.close()

    @property
    def num_workers(self) -> int:
        """Decode workers, once connected."""
        return self._num_workers

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
        if not self._num_workers:
            settings = self._pipeline.config
            check_travels(self._pipeline)
            self._connection = connect(
                self._address,
                settings.run.workers,
                self._progress.worker_said if self._worker_logs else None,
            )
            self._watch = ClusterWatch()
            if self._shared is not None:
                self._marker.enter_context(self._shared.marked())
                check_nodes(self._shared)
            self._device = choose_device(settings.general.device)
            self._num_workers = max(1, settings.run.workers or cluster_cpus())

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
        while not schedule.is_over:
            self._check_cluster()
            models.check()
            self._workers.fill(min(self._num_workers, schedule.num_open), self._pipeline)
            while schedule.has_next and (worker := self._workers.next_ready(self._pipeline)):
                worker.start(schedule.take(self._workers.num_to_risk), models.routes())
            self._workers.wait()
            for worker in self._workers.ended():
                self._collect(worker, schedule, models)
        return schedule.metrics

    def spread(self, function: Callable[[A], R], arguments: Sequence[A]) -> Iterator[R]:
        """Make independent calls as tasks of the cluster, and yield their results in order.

        A few calls are made in this process if the run has not started Ray, which would take longer.
        """
        if not self._num_workers and starts_here(self._address) and len(arguments) <= FEW_CALLS:
            return in_process(function, arguments)
        self.connect()
        return on_cluster(
            function,
            arguments,
            limit=2 * self._num_workers,
            check=self._check_cluster,
            timeout_s=self._pipeline.config.run.stall_timeout_s,
        )

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

    def _check_cluster(self) -> None:
        if self._watch is not None:
            self._watch.check()

    def _check_cluster_now(self) -> None:
        if self._watch is not None:
            self._watch.check_now()
