"""The passes of a run, in order: probe, filter, dataset-wide stages, enrich."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from curation.execution.dataset_wide import bind_step, dataset_steps, filters_behind, measure_step
from curation.execution.driver import Pool
from curation.execution.placement import groups_of
from curation.execution.plan import Phase, Task
from curation.execution.population import Population
from curation.execution.progress import ProgressListener
from curation.execution.services import running, services_of
from curation.execution.standing import Standing
from curation.execution.worker.measure import Metrics
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step


class Passes:
    """Does what is missing, pass by pass.

    Attributes:
        metrics: What has been measured so far.
    """

    def __init__(self, ledger: Ledger, pool: Pool, standing: Standing, progress: ProgressListener) -> None:
        self._ledger = ledger
        self._pool = pool
        self._standing = standing
        self._progress = progress
        self.metrics = Metrics()

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
        with self._services(pipeline, tasks) as services:
            self._progress.begin(phase, sum(task.num_sources for task in tasks))
            self._standing.changed(tasks)
            self.metrics.add(self._pool.do([replace(task, services=services) for task in tasks]))
            self._progress.end()

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
    def _services(
        self, pipeline: Pipeline, tasks: Sequence[Task]
    ) -> Iterator[Mapping[str, Mapping[str, str]]]:
        """Start what must run beside these tasks' stages; step key -> what it says. Stopped in any case."""
        needed = frozenset().union(*(task.needs for task in tasks))
        steps = [step for step in pipeline.steps() if step.key in needed]
        services = services_of(pipeline, steps)
        if not services:
            yield {}
            return
        self._pool.connect()
        self._progress.say(f"starting what {', '.join(item.key for item in services)} needs")
        groups = groups_of(step.stage for step in steps)
        with running(services, groups, self._pool.device, is_local=self._pool.is_local) as found:
            yield found
