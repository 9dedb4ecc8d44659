"""The passes of a run, in order: probe, filter, dataset-wide stages, enrich."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from curation.execution.cluster.placement import nodes
from curation.execution.dataset_wide import bind_step, dataset_steps, filters_behind, measure_step
from curation.execution.driver.pool import Pool
from curation.execution.models.groups import model_groups, num_cards, place_models
from curation.execution.models.pools import ModelPools, bytes_in_flight
from curation.execution.plan import Phase, Task
from curation.execution.population import Population
from curation.execution.progress import ProgressListener
from curation.execution.services import running, services_of
from curation.execution.standing import Standing
from curation.execution.worker.metrics import DECODE, Metrics
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step


class Passes:
    """Does what is missing, pass by pass.

    Attributes:
        metrics: What has been measured so far.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        standing: Standing,
        progress: ProgressListener,
        on_work: Callable[[], None],
    ) -> None:
        """`on_work` is called before anything is measured."""
        self._ledger = ledger
        self._pool = pool
        self._standing = standing
        self._progress = progress
        self._on_work = on_work
        self.metrics = Metrics()
        self._service_cards = 0.0

    def measure(self, pipeline: Pipeline, probes: Sequence[Task]) -> Pipeline:
        """All passes. Ray is started by the first that has work, so a run without work never does.

        New units are filtered as they are read; the filter pass then finds older units, and long videos.
        Dataset-wide steps come between the filter and the enrich pass; filters that stand behind one of
        them have a pass of their own. The pipeline comes back with those steps bound.
        """
        self._do(pipeline, "probe", [task for task in probes if task.phase == "probe"])
        self._do(pipeline, "filter", [task for task in probes if task.phase == "filter"])
        self._pass(pipeline, "filter", filters_behind(pipeline, None))
        for kind, step in dataset_steps(pipeline):
            pipeline, population = bind_step(pipeline, self._ledger, kind, step)
            self._pool.use(pipeline)
            bound = pipeline.step_of(step.key)
            if bound is not None and self._standing.may_measure(step.key):
                self._measure_together(pipeline, bound, population)
            self._pass(pipeline, "filter", filters_behind(pipeline, step.key))
        self._pass(pipeline, "enrich", {step.key for step in pipeline.steps()})
        return pipeline

    def _pass(self, pipeline: Pipeline, phase: Phase, steps: set[str]) -> None:
        self._do(pipeline, phase, self._standing.tasks(pipeline, phase, steps))

    def _do(self, pipeline: Pipeline, phase: Phase, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        self._on_work()
        started = time.perf_counter()
        with self._beside(pipeline, tasks) as (services, models, num_gpus):
            self._progress.begin(phase, sum(task.num_sources for task in tasks))
            self._standing.changed(tasks)
            metrics = self._pool.do([replace(task, services=services) for task in tasks], models)
            self._progress.end()
        pass_s = time.perf_counter() - started
        metrics.gpu_s = num_gpus * pass_s
        self._count_pools(phase, metrics, models, pass_s)
        self.metrics.add(metrics)

    def _count_pools(self, phase: Phase, metrics: Metrics, models: ModelPools, pass_s: float) -> None:
        """Complete what is known of the workers of a pass, and name them by it, too."""
        decode = metrics.pool(DECODE)
        attendance = self._pool.attendance
        decode.num_workers = attendance.most
        for node_id, number in attendance.most_by_node.items():
            decode.nodes[self._pool.cluster.name_of(node_id)] = number
        decode.idle_s = max(0.0, attendance.worker_s - decode.busy_s - decode.load_s)
        decode.waited_s = sum(pool.waited_s for pool in metrics.pools.values())
        decode.busy_s -= decode.waited_s
        for name, pool in models.metrics.items():
            metrics.pool(name).add(pool)
            metrics.pool(name).gpu_s += pass_s * models.num_cards(name)
        decode.gpu_s = pass_s * self._service_cards
        for pool in metrics.pools.values():
            pool.pass_s = pass_s
        in_order = [DECODE, *(name for name in metrics.pools if name != DECODE)]
        metrics.pools = {f"{phase}: {name}": metrics.pools[name] for name in in_order}

    def _measure_together(self, pipeline: Pipeline, step: Step, population: Population) -> None:
        """A dataset-wide step, once everything before it has been measured."""
        if population.num_waiting:
            self._progress.say(
                f"{step.key} waits: {population.num_waiting} samples are not through the stages before it"
            )
            return
        metrics = measure_step(
            pipeline, self._ledger, step, population, self._standing.recompute, self._pool.spread
        )
        if metrics.rows[step.key]:
            self._standing.changed()
            seconds = metrics.seconds[step.key]
            self._progress.say(
                f"{step.key}: {metrics.rows[step.key]} samples measured together in {seconds:.1f} s"
            )
        self.metrics.add(metrics)

    @contextmanager
    def _beside(
        self, pipeline: Pipeline, tasks: Sequence[Task]
    ) -> Iterator[tuple[Mapping[str, Mapping[str, str]], ModelPools, int]]:
        """Start what these tasks' stages need beside the decode workers; it is stopped in any case.

        Yields what the services say, by step key, the model workers, and the GPUs of the cluster if anything
        is on one.
        """
        self._pool.connect()
        device = self._pool.device
        for step in pipeline.steps():
            if self._standing.may_measure(step.key):
                step.stage.check_device(device)
        needed = frozenset().union(*(task.needs for task in tasks))
        services = services_of(pipeline, [step for step in pipeline.steps() if step.key in needed])
        groups = model_groups(pipeline, needed, device)
        with_cards = nodes() if device == "cuda" else []
        others = {item.key: item.service.resources() for item in services}
        settings = pipeline.config.run
        placements, places = place_models(groups, others, with_cards, settings.model_workers)
        self._service_cards = sum(map(num_cards, places.values()))
        if services:
            self._progress.say(f"starting what {', '.join(item.key for item in services)} needs")
        max_bytes = bytes_in_flight(settings.max_held_bytes, self._pool.num_workers) if groups else 0
        with (
            running(services, places, device, is_local=self._pool.is_local) as said,
            ModelPools(
                pipeline,
                placements,
                said,
                self._progress,
                device=device,
                max_bytes=max_bytes,
                ask_cluster=self._pool.ask_cluster,
            ) as models,
        ):
            yield said, models, sum(node.num_gpus for node in with_cards) if groups or services else 0
