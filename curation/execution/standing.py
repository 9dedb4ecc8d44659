"""How everything stands: what waits for which pass, and the summary, from one scan over the ledger.

A run with nothing to do scans once; a pass that measured something makes what was known void.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from curation.execution.dataset_wide import dataset_steps, filters_behind
from curation.execution.plan import PassPlan, Phase, Task
from curation.ledger import Ledger
from curation.ledger.absent import absent_sources
from curation.ledger.unit_state import NO_RECOMPUTE, RecomputePolicy
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.records import SourceKind
from curation.report.summary.summary import Summary, SummaryBuilder, summarize

Pass = tuple[Phase, frozenset[str]]
"""A phase, and the keys of the steps that may be measured in it."""


class Standing:
    """What is known of the ledger as it stands; `changed` makes it look again."""

    def __init__(
        self, ledger: Ledger, *, only: frozenset[str] | None = None, recompute: RecomputePolicy = NO_RECOMPUTE
    ) -> None:
        """`only` are the keys of the steps that may be measured; None for all."""
        self._ledger = ledger
        self._only = only
        self._recompute = recompute
        self._new: set[int] = set()
        self._pipeline: Pipeline | None = None
        self._tasks: dict[Pass, list[Task]] = {}
        self._summary: SummaryBuilder | None = None
        self._unread: Mapping[SourceKind, int] = {}

    @property
    def recompute(self) -> RecomputePolicy:
        """Rows that count as missing."""
        return self._recompute

    def may_measure(self, key: str) -> bool:
        """Whether a step may be measured."""
        return self._only is None or key in self._only

    def changed(self, tasks: Iterable[Task] = ()) -> None:
        """Something was measured, such as these tasks: what was known is void.

        Rows of new units are of this run, so none of them has to be made again.
        """
        self._new.update(task.unit for task in tasks if task.phase == "filter" and task.sources)
        self._pipeline = None

    def tasks(self, pipeline: Pipeline, phase: Phase, steps: Collection[str]) -> list[Task]:
        """What a pass has to do in which only these steps are measured."""
        self._scan(pipeline)
        return self._tasks[phase, self.allowed(steps)]

    def summary(self, pipeline: Pipeline) -> Summary:
        """Counts of everything, whatever is to be recomputed.

        Raises:
            LedgerError: something is counted twice or lost.
        """
        if self._summary is None or self._pipeline is not pipeline or self._recompute != NO_RECOMPUTE:
            return summarize(self._ledger, pipeline)
        return self._summary.finish(self._unread)

    def allowed(self, steps: Collection[str]) -> frozenset[str]:
        """Those of the steps that may be measured."""
        return frozenset(steps) if self._only is None else self._only & frozenset(steps)

    def _scan(self, pipeline: Pipeline) -> None:
        if self._pipeline is pipeline:
            return
        self._tasks = {key: [] for key in self._passes(pipeline)}
        summary = SummaryBuilder(pipeline)
        absent = absent_sources(self._ledger)
        for recompute, units in self._units():
            plans = {key: PassPlan(pipeline, *key, recompute) for key in self._tasks}
            for group in verdict_groups(
                self._ledger,
                pipeline,
                recompute=recompute,
                units=units,
                source_columns=(*summary.source_columns, *PassPlan.SOURCE_COLUMNS),
                columns=summary.columns,
                absent=absent,
            ):
                summary.add(group)
                for plan in plans.values():
                    plan.add(group)
            for key, plan in plans.items():
                self._tasks[key] += plan.tasks
        self._summary, self._unread = summary, absent.unread
        self._pipeline = pipeline

    def _units(self) -> Iterator[tuple[RecomputePolicy, list[int] | None]]:
        """What counts as missing in which units; None for all of them."""
        if self._recompute == NO_RECOMPUTE or not self._new:
            yield self._recompute, None
            return
        yield self._recompute, [unit for unit in self._ledger.units() if unit not in self._new]
        yield NO_RECOMPUTE, sorted(self._new)

    def _passes(self, pipeline: Pipeline) -> Iterator[Pass]:
        yield "filter", self.allowed(filters_behind(pipeline, None))
        for _, step in dataset_steps(pipeline):
            yield "filter", self.allowed(filters_behind(pipeline, step.key))
        yield "enrich", self.allowed({step.key for step in pipeline.steps()})
