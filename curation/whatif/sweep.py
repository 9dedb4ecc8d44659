"""The yield of each step at many settings of the thresholds, from one scan of the ledger.

    found = sweep(ledger, pipeline, parse_axes(["images.aesthetic.min_score=4:6:0.25"], pipeline))
    for at in found.points:
        at.point, at.outcomes["images"][Outcome.KEPT], at.steps["images.aesthetic"].num_waiting

Each point gives what `summarize` gives for a pipeline with these thresholds. Only stored columns are read, so
what a looser threshold asks for and nobody has measured is counted as waiting. A dataset-wide step whose
population changes has no rows for the new one: all of its samples wait for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from curation.execution.dataset_wide import needing
from curation.ledger import Ledger
from curation.ledger.columns import FAILED, KEPT, OUTCOMES, REJECTED, RuleEvaluator
from curation.ledger.unit_state import branch_steps
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Branch, Pipeline
from curation.pipeline.rules import AllOf, Step, steps_of, with_step
from curation.records import Outcome, SourceKind
from curation.whatif.axes import Axis, Point, points_of, present_point, steps_at
from curation.whatif.cells import Cells, CellsBuilder


@dataclass
class StepYield:
    """How the samples that come to a step fare there at one point.

    Attributes:
        num_waiting: Those that would have to be measured first; more may wait behind them.
    """

    num_passed: int = 0
    num_rejected: int = 0
    num_failed: int = 0
    num_waiting: int = 0

    @property
    def num_measured(self) -> int:
        """Samples with a row."""
        return self.num_passed + self.num_rejected + self.num_failed


@dataclass
class PointYield:
    """What comes out at one point.

    Attributes:
        point: The values of the thresholds, in the order of the axes.
        outcomes: "images" and "clips" -> how they end; the windows of a kept clip count one by one.
        num_windows: Kept windows among the clips.
        seconds: Length of the kept clips and windows.
        tokens: Vision tokens of what is kept.
        steps: Step key -> its yield.
    """

    point: Point
    outcomes: dict[str, Counter[Outcome]] = field(default_factory=dict)
    num_windows: int = 0
    seconds: float = 0.0
    tokens: int = 0
    steps: dict[str, StepYield] = field(default_factory=dict)

    def total(self, outcome: Outcome) -> int:
        """Images and clips of this outcome."""
        return sum(counts[outcome] for counts in self.outcomes.values())


@dataclass(frozen=True)
class Sweep:
    """The yield at every point.

    Attributes:
        present: The yield as configured.
        populations_differ: Keys of the dataset-wide steps that have no rows for some point.
    """

    axes: Sequence[Axis]
    present: PointYield
    points: Sequence[PointYield]
    populations_differ: Sequence[str]


def sweep(ledger: Ledger, pipeline: Pipeline, axes: Sequence[Axis]) -> Sweep:
    """Every combination of the values of all axes."""
    builders = {kind: CellsBuilder(pipeline, kind, axes) for kind in pipeline.branches}
    columns = {key: names for builder in builders.values() for key, names in builder.columns.items()}
    unsplit: Counter[tuple[SourceKind, str]] = Counter()
    for group in verdict_groups(ledger, pipeline, columns=columns, all_windows=True):
        for kind, builder in builders.items():
            builder.add(group)
            unsplit.update(_without_samples(group, kind))
    scales = [_Scale(pipeline, kind, builder.finish(), unsplit) for kind, builder in builders.items()]
    present = _yield_at(scales, axes, present_point(axes))
    points = [_yield_at(scales, axes, point) for point in points_of(axes)]
    differing = {key for scale in scales for key in scale.populations_differ}
    return Sweep(axes, present, points, [step.key for step in pipeline.steps() if step.key in differing])


def _without_samples(group: VerdictGroup, kind: SourceKind) -> Counter[tuple[SourceKind, str]]:
    """Sources that wait for their splitter, and those that it failed."""
    failed = (group.of_sources.outcome == FAILED) & (group.of_sources.step >= 0)
    failed &= group.sources["kind"].to_numpy(zero_copy_only=False) == kind
    failed[group.samples[kind].source] = False
    numbers = {"waiting": int(group.unsplit(kind).sum()), "failed": int(failed.sum())}
    return Counter({(kind, what): number for what, number in numbers.items()})


def _yield_at(scales: Sequence[_Scale], axes: Sequence[Axis], point: Point) -> PointYield:
    found = PointYield(point)
    steps = steps_at(axes, point)
    for scale in scales:
        scale.weigh(steps, found)
    return found


class _Scale:
    """Judges the cells of one kind of source.

    Attributes:
        populations_differ: Keys of dataset-wide steps that had no rows for some point.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        kind: SourceKind,
        cells: Cells,
        without_samples: Mapping[tuple[SourceKind, str], int],
    ) -> None:
        self._branch, self._enrich, self._cells = pipeline.branches[kind], pipeline.enrich, cells
        self._name = "images" if self._branch.splitter is None else "clips"
        self._unsplit, self._failed = (without_samples[kind, what] for what in ("waiting", "failed"))
        self._populations = {
            step.key: needing(cells.evaluator, self._branch, step)[0]
            for step in branch_steps(self._branch)
            if step.is_dataset_wide and len(cells.number)
        }
        self.populations_differ: set[str] = set()

    def weigh(self, steps: Mapping[str, Step], found: PointYield) -> None:
        """Add the yield of the kind with these steps in the place of those with their keys."""
        if not len(self._cells.number):
            self._count_nothing(found)
            return
        branch, enrich = self._branch, self._enrich
        for step in steps.values():
            branch = replace(
                branch,
                rule=with_step(branch.rule, step),
                splitter=step if branch.splitter and branch.splitter.key == step.key else branch.splitter,
            )
            enrich = AllOf(tuple(with_step(part, step) for part in enrich.rules))
        evaluator = self._of_population(branch)
        verdicts = evaluator.decide(branch.whole_rule)
        is_kept = verdicts.outcome == KEPT
        verdicts.put(is_kept, evaluator.decide(enrich))
        counted = self._cells.is_first | is_kept
        number = self._cells.number
        outcomes = np.bincount(verdicts.outcome[counted], number[counted], len(OUTCOMES))
        found.outcomes[self._name] = Counter(
            {outcome: int(outcomes[code]) for code, outcome in enumerate(OUTCOMES) if outcomes[code]}
        )
        ends_kept = counted & (verdicts.outcome == KEPT)
        found.num_windows += int(self._cells.num_windows[ends_kept].sum())
        found.seconds += float(self._cells.seconds[ends_kept].sum())
        found.tokens += int(self._cells.tokens[ends_kept].sum())
        self._count_steps(found, evaluator, branch, enrich, is_kept)

    def _count_steps(
        self,
        found: PointYield,
        evaluator: RuleEvaluator,
        branch: Branch,
        enrich: AllOf,
        is_kept: NDArray[np.bool_],
    ) -> None:
        asked = evaluator.asked(branch.whole_rule, self._cells.is_first)
        asked |= evaluator.asked(enrich, is_kept)
        for step in (*branch_steps(branch), *steps_of(enrich)):
            measured, outcome = evaluator.measured[step.key], evaluator.decide(step).outcome
            counted = asked[step.key] & measured.present
            counts = found.steps.setdefault(step.key, StepYield())
            numbers = np.bincount(outcome[counted], self._cells.number[counted], len(OUTCOMES))
            counts.num_passed += int(numbers[KEPT])
            counts.num_rejected += int(numbers[REJECTED])
            counts.num_failed += int(numbers[FAILED])
            counts.num_waiting += int(self._cells.number[asked[step.key] & ~measured.present].sum())
        self._count_unsplit(found)

    def _of_population(self, branch: Branch) -> RuleEvaluator:
        """The cells without the rows of those dataset-wide steps that have another population now."""
        evaluator = self._cells.evaluator
        for key, before in self._populations.items():
            step = next(step for step in branch_steps(branch) if step.key == key)
            if (needing(evaluator, branch, step)[0] != before).any():
                nothing = evaluator.measured[key].take(np.full(evaluator.number, -1))
                evaluator = replace(evaluator, measured={**evaluator.measured, key: nothing})
                self.populations_differ.add(key)
        return evaluator

    def _count_nothing(self, found: PointYield) -> None:
        for step in (*branch_steps(self._branch), *steps_of(self._enrich)):
            found.steps.setdefault(step.key, StepYield())
        self._count_unsplit(found)

    def _count_unsplit(self, found: PointYield) -> None:
        if self._branch.splitter is not None:
            found.steps[self._branch.splitter.key].num_waiting += self._unsplit
            found.steps[self._branch.splitter.key].num_failed += self._failed
