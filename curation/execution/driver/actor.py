"""The decode worker as a Ray actor: `UnitWorker`, and a second thread that answers the watchdog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from curation.errors import ContractError
from curation.errors.isolation import isolated
from curation.execution.cluster.joining.shared import SharedFolders
from curation.execution.cluster.processes import WATCHED
from curation.execution.models.client import ModelRoutes, RemoteModels
from curation.execution.plan import Task
from curation.execution.segments import SegmentResult
from curation.execution.worker.heartbeat import Beat
from curation.execution.worker.worker import Done, UnitWorker
from curation.records import Source
from curation.storage.hub.place import pin, pinned

if TYPE_CHECKING:
    from curation.pipeline import Pipeline


def check_travels(pipeline: Pipeline) -> None:
    """Make sure that every stage can be sent to workers.

    Raises:
        ContractError: one can't.
    """
    from ray import cloudpickle

    for step in pipeline.steps():
        try:
            with isolated(ContractError):
                cloudpickle.dumps(step.stage)
        except ContractError as error:
            raise ContractError(f"{step.key} can't be sent to workers: {error}") from error


def start_decode_worker(pipeline: Pipeline, shared: SharedFolders | None = None) -> Any:
    """Start one; the actor. It takes one CPU, and is there once it answers.

    It looks for the folders that all nodes share, if there are any, before it does anything. Workers are
    spread over the nodes: Ray would fill half of one node before it takes the next, whose disk, network and
    memory would serve nobody.
    """
    import ray

    @ray.remote(num_cpus=1, num_gpus=0, scheduling_strategy="SPREAD", **WATCHED)
    class Worker:
        def __init__(
            self, pipeline: Pipeline, commits: Mapping[str, str], shared: SharedFolders | None
        ) -> None:
            if shared is not None:
                shared.check_here()
            pin(commits)
            self._node_id = ray.get_runtime_context().get_node_id()
            self._worker = UnitWorker(pipeline, self._node_id)

        def use(self, pipeline: Pipeline) -> None:
            self._worker.use(pipeline)

        def work(self, task: Task, routes: ModelRoutes) -> Done:
            self._worker.ask(partial(RemoteModels, routes))
            return self._worker.work(task)

        @ray.method(num_returns=2)  # type: ignore[untyped-decorator]
        def process_segment(self, task: Task, routes: ModelRoutes, number: int) -> tuple[Done, SegmentResult]:
            self._worker.ask(partial(RemoteModels, routes))
            metrics, result = self._worker.process_segment(task, number)
            return Done(metrics), result

        def merge(self, task: Task, routes: ModelRoutes, *results: SegmentResult) -> Done:
            self._worker.ask(partial(RemoteModels, routes))
            return Done(self._worker.merge(task, results))

        def probe(self, source: Source) -> Source:
            return self._worker.probe(source)

        def rss_bytes(self) -> int:
            return self._worker.rss_bytes()

        @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
        def beat(self) -> Beat:
            return replace(self._worker.heartbeat.beat(), node_id=self._node_id)

    worker_class: Any = Worker
    return worker_class.remote(pipeline, pinned(), shared)
