"""The decode workers of a run: started as they are needed, watched, and replaced when they die.

    workers = DecodeWorkers(settings, start_actor, progress, ask_cluster)
    workers.begin_pass()
    while work:
        workers.adjust(num_workers, pipeline, cluster)
        for worker in workers.ready(pipeline):
            worker.start(request, routes)
        workers.wait()
        for worker in workers.ended():
            value = workers.finish(worker)         # raises Died, or what the call raised

Nothing here waits for longer than a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from curation.config.config import RunSettings
from curation.errors import EnvironmentFault
from curation.execution.cluster.processes import WorkerProcess
from curation.execution.cluster.results import Died, Unreachable
from curation.execution.cluster.watch import ClusterState
from curation.execution.driver.attendance import Attendance
from curation.execution.driver.requests import Request
from curation.execution.progress import ProgressListener
from curation.pipeline import Pipeline

POLL_S = 0.5
"""How long to wait for news at most, and how often to look at workers that there is no news of."""
STARTS_EACH = 3
"""So often for each worker, starting one may fail in a row before the run ends."""


class DecodeWorker:
    """A decode worker: its process, and what it does.

    Attributes:
        process: The process.
        pipeline: The pipeline that it works by.
        request: What it works on; None while it does something else.
        references: To what the call returns.
    """

    def __init__(self, process: WorkerProcess, pipeline: Pipeline) -> None:
        self.process = process
        self.pipeline = pipeline
        self.request: Request | None = None
        self.references: list[Any] = []
        self.is_measured = True
        """Whether its memory was measured since the last request."""

    @property
    def node_id(self) -> str:
        """Where it runs; empty before it has answered."""
        return self.process.beat.node_id

    def start(self, request: Request, routes: Any) -> None:
        """Make a call for a request."""
        self.request, self.is_measured = request, False
        self._call(request.start(self.process.actor, routes))

    def take_up(self, pipeline: Pipeline) -> None:
        """Have it work by another pipeline from now on."""
        self.pipeline = pipeline
        self._call([self.process.actor.use.remote(pipeline)])

    def measure(self) -> None:
        """Ask how much memory it holds."""
        self.is_measured = True
        self._call([self.process.actor.rss_bytes.remote()])

    def _call(self, references: list[Any]) -> None:
        self.references = references
        self.process.call(references)


class DecodeWorkers:
    """The decode workers.

    Attributes:
        attendance: How many there were in this pass.
    """

    def __init__(
        self,
        settings: RunSettings,
        start_actor: Callable[[Pipeline], Any],
        progress: ProgressListener,
        ask_cluster: Callable[[], ClusterState],
    ) -> None:
        """`start_actor` starts one for a pipeline; `ask_cluster` may raise that the cluster is at fault."""
        self._settings = settings
        self._start_actor = start_actor
        self._progress = progress
        self._ask_cluster = ask_cluster
        self._workers: list[DecodeWorker] = []
        self._news: list[DecodeWorker] = []
        self._looked_at = 0.0
        self._num_failed_starts = 0
        self.attendance = Attendance()

    @property
    def num_to_risk(self) -> int:
        """How many workers may have something at a time that may kill them: half of those that have started.

        So the others go on even while one that was killed is replaced; an only worker has no others.
        """
        num_started = len(self._started())
        return num_started if len(self._workers) == 1 else num_started // 2

    @property
    def number(self) -> int:
        """How many there are, those that are starting included."""
        return len(self._workers)

    @property
    def num_busy(self) -> int:
        """How many of them work on a request."""
        return sum(worker.request is not None for worker in self._workers)

    def begin_pass(self) -> None:
        """Make sure that workers of the pass before still live before they are called."""
        self.attendance = Attendance()
        for worker in self._workers:
            worker.process.forget_answer()

    def adjust(self, number: int, pipeline: Pipeline, cluster: ClusterState) -> None:
        """Start workers until there are so many. If there are more, end those that no node has room for.

        The others stay: they are there for the next pass, and a node that leaves takes its own along.
        """
        settings = self._settings
        while len(self._workers) < number:
            process = WorkerProcess(
                self._start_actor(pipeline),
                start_timeout_s=settings.start_timeout_s,
                stall_timeout_s=settings.stall_timeout_s,
            )
            self._workers.append(DecodeWorker(process, pipeline))
        for worker in self._unplaced(cluster)[: len(self._workers) - number]:
            worker.process.kill("the cluster has no room for it")
            self._workers.remove(worker)

    def kill_all(self) -> None:
        """End all of them at once."""
        for worker in self._workers:
            worker.process.kill("the run ends")
        self._workers.clear()

    def ready(self, pipeline: Pipeline) -> Iterator[DecodeWorker]:
        """The workers that can start a request now, working by `pipeline`."""
        for worker in self._workers:
            if not worker.process.is_ready():
                continue
            if worker.pipeline is not pipeline:
                worker.take_up(pipeline)
            elif self._settings.max_rss_bytes is not None and not worker.is_measured:
                worker.measure()
            else:
                yield worker

    def wait(self) -> None:
        """Wait a moment, or until something happens; then kill the workers that are silent for too long."""
        self._news = self._wait_for_news()
        if time.monotonic() - self._looked_at >= POLL_S:
            self._looked_at, self._news = time.monotonic(), list(self._workers)
        for worker in self._news:
            try:
                self._look(worker)
            except Died as died:
                self._drop(worker, died)
                self._count_failed_start(died)
        self.attendance.count(worker.process.beat.node_id for worker in self._started())

    def ended(self) -> Iterator[DecodeWorker]:
        """The workers whose request has ended, in whatever way. What a worker did for itself ends here."""
        for worker in self._news:
            if not worker.process.is_done:
                continue
            if worker.request is None:
                self._end_own(worker)
            else:
                yield worker

    def finish(self, worker: DecodeWorker) -> Any:
        """The value of a request that has ended; the worker is free again, or gone.

        Raises:
            Died: the worker is gone.
            Lost: an argument of the call is gone.
            EnvironmentFault: the worker is gone because the cluster is.
            Exception: what the call raised.
        """
        worker.request = None
        try:
            value = worker.process.finish()
        except Died as died:
            self._drop(worker, died)
            if died.while_loading:
                self._count_failed_start(died)
            raise
        self._num_failed_starts = 0
        return value

    def _started(self) -> list[DecodeWorker]:
        return [worker for worker in self._workers if not worker.process.is_starting]

    def _unplaced(self, cluster: ClusterState) -> list[DecodeWorker]:
        if not cluster.unplaced:
            return []
        starting = [worker for worker in self._workers if worker.process.is_starting]
        return [worker for worker in starting if cluster.is_unplaced(worker.process.actor)]

    def _wait_for_news(self) -> list[DecodeWorker]:
        """Wait a moment, or until something happens; the workers that something happened to."""
        import ray

        waited_for = {ref: worker for worker in self._workers for ref in worker.process.references}
        if not waited_for:
            time.sleep(POLL_S)
            return []
        references = list(waited_for)
        ray.wait(references, timeout=POLL_S)
        here, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [waited_for[reference] for reference in here]

    def _look(self, worker: DecodeWorker) -> None:
        process = worker.process
        process.look()
        complaint = process.complaint()
        if complaint is None:
            return
        if process.is_starting and self._ask_cluster().is_unplaced(process.actor):
            self._wait_for_place(worker)
            return
        self._progress.say(f"{complaint}: killing the worker")
        process.kill(complaint)

    def _wait_for_place(self, worker: DecodeWorker) -> None:
        """Wait on for a node with room for a worker, while others work.

        Raises:
            EnvironmentFault: there are no others.
        """
        if not self._started():
            limit_s = self._settings.start_timeout_s
            raise EnvironmentFault(
                f"no node has had a free CPU for a worker for {limit_s:.0f} s; add nodes or free some CPUs, "
                "or raise run.start_timeout_s where the cluster takes longer to grow"
            )
        worker.process.start_over()

    def _end_own(self, worker: DecodeWorker) -> None:
        """What a worker did for itself has ended: it knows the pipeline, or its memory is measured."""
        limit = self._settings.max_rss_bytes
        try:
            value = worker.process.finish()
        except Died as died:
            self._drop(worker, died)
            self._count_failed_start(died)
            return
        if isinstance(value, int) and limit is not None and value > limit:
            self._progress.say(f"a worker holds {value / 1e6:.0f} MB: replacing it")
            worker.process.kill("it held too much memory")
            self._workers.remove(worker)

    def _drop(self, worker: DecodeWorker, died: Died) -> None:
        """Forget a dead worker; whoever is to blame, the cluster is asked first."""
        worker.process.kill(str(died))
        self._workers.remove(worker)
        self._ask_cluster()

    def _count_failed_start(self, died: Died) -> None:
        """Note that a worker died without having worked; those that go down with their node do not count.

        Raises:
            EnvironmentFault: too many did in a row.
        """
        if died.with_node or isinstance(died, Unreachable):
            self._progress.say(f"lost a worker: {died}")
            return
        self._num_failed_starts += 1
        self._progress.say(f"a worker died before it worked ({died}); starting another one")
        num_placed = len(self._workers) - len(self._unplaced(self._ask_cluster()))
        if self._num_failed_starts >= STARTS_EACH * (num_placed + 1):
            raise EnvironmentFault(
                f"{self._num_failed_starts} workers in a row died before they worked; of the last one: {died}"
            )
