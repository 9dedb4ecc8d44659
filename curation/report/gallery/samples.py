"""Which samples a report shows: those nearest each threshold, and some of every outcome and every error.

    builder = GalleryBuilder(pipeline)
    for group in verdict_groups(ledger, pipeline):
        builder.add(group)
    gallery = builder.finish()

What is held does not grow with the number of samples. The same ledger gives the same samples, whether one
builder saw all of its units or several merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import PoisonSource
from curation.ledger.columns import FAILED, KEPT, NONE, OUTCOMES, RuleEvaluator, Verdicts
from curation.ledger.verdict_group import VerdictGroup
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import Outcome, Sample, SampleKind
from curation.stage import Threshold

EACH_SIDE = 6
"""Samples on each side of a threshold."""
EACH_OUTCOME = 6
"""Samples of each outcome and kind."""
EACH_ERROR = 3
"""Samples that failed by each type of error."""


@dataclass(frozen=True)
class LocatedSample:
    """A sample, and the unit that its rows are in."""

    unit: int
    sample: Sample


@dataclass(frozen=True)
class Near:
    """A sample near a threshold.

    Attributes:
        found: The sample.
        value: What was measured of it.
        reason: Why it ended as it did; None where it is kept or pending.
    """

    found: LocatedSample
    value: float
    reason: str | None


@dataclass
class Border:
    """A threshold, and the samples that were measured nearest to it.

    Attributes:
        step: Key of the step.
        setting: Name of the threshold in the step's settings.
        column: What it looks at.
        sign: How a value is compared with the threshold, for people.
        threshold: Where it stands.
        rejected, passed: Those that it rejects, and those that it lets through, nearest first, and of equally
            near ones those with the lowest ids.
        num_rejected, num_passed: How many there are of them in all.
    """

    step: str
    setting: str
    column: str
    sign: str
    threshold: float
    rejected: list[Near] = field(default_factory=list)
    passed: list[Near] = field(default_factory=list)
    num_rejected: int = 0
    num_passed: int = 0

    def merge(self, other: Border) -> None:
        """Take in what was found in later units."""
        self.rejected = self._nearest([*self.rejected, *other.rejected])
        self.passed = self._nearest([*self.passed, *other.passed])
        self.num_rejected += other.num_rejected
        self.num_passed += other.num_passed

    def _nearest(self, found: list[Near]) -> list[Near]:
        return sorted(found, key=self._rank)[:EACH_SIDE]

    def _rank(self, near: Near) -> tuple[float, str]:
        return abs(near.value - self.threshold), near.found.sample.sample_id


@dataclass(frozen=True)
class Gallery:
    """The samples that a report shows.

    Attributes:
        borders: Of each threshold that is set, in the order of the steps.
        outcomes: Kind and outcome -> a draw of such samples that depends on their ids alone.
        errors: Type of error -> the same of samples that failed by it.
    """

    borders: list[Border] = field(default_factory=list)
    outcomes: dict[tuple[SampleKind, Outcome], list[LocatedSample]] = field(default_factory=dict)
    errors: dict[str, list[LocatedSample]] = field(default_factory=dict)

    def samples(self) -> list[LocatedSample]:
        """All of them, each once."""
        found = {one.sample.sample_id: one for one in self._all()}
        return list(found.values())

    def without_poison(self) -> list[LocatedSample]:
        """All that may be decoded: not those that killed their workers."""
        poison = {one.sample.sample_id for one in self.errors.get(PoisonSource.__name__, [])}
        poison |= {
            near.found.sample.sample_id
            for border in self.borders
            for near in (*border.rejected, *border.passed)
            if near.reason == PoisonSource.__name__
        }
        return [one for one in self.samples() if one.sample.sample_id not in poison]

    def _all(self) -> Iterator[LocatedSample]:
        for border in self.borders:
            yield from (near.found for near in (*border.rejected, *border.passed))
        for found in (*self.outcomes.values(), *self.errors.values()):
            yield from found


@dataclass(frozen=True)
class _Placed:
    """Samples or windows of one kind of source in a group, and how they stand.

    Attributes:
        kind: What they are.
        source: int64 [N], place of the source of each in the group's sources.
        sample_id: [N] strings.
        start_s, end_s: float64 [N] seconds.
        verdicts: [N].
    """

    group: VerdictGroup
    kind: SampleKind
    source: NDArray[np.int64]
    sample_id: pa.Array
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    verdicts: Verdicts

    def located(self, places: NDArray[np.int64]) -> list[LocatedSample]:
        """The samples at these places."""
        sources = self.group.sources.take(pa.array(self.source[places]))
        columns = (
            sources["unit"].to_pylist(),
            sources["source_id"].to_pylist(),
            self.sample_id.take(pa.array(places)).to_pylist(),
            self.start_s[places].tolist(),
            self.end_s[places].tolist(),
        )
        return [
            LocatedSample(
                unit,
                Sample(
                    sample_id=sample_id, source_id=source_id, kind=self.kind, start_s=start_s, end_s=end_s
                ),
            )
            for unit, source_id, sample_id, start_s, end_s in zip(*columns, strict=True)
        ]

    def near(self, places: NDArray[np.int64], values: NDArray[np.float64]) -> list[Near]:
        """The samples at these places, with these values."""
        reasons = self.verdicts.reason[places].tolist()
        texts = [None if code == NONE else self.group.labels.texts[code] for code in reasons]
        found = zip(self.located(places), values.tolist(), texts, strict=True)
        return [Near(located, value, reason) for located, value, reason in found]


class GalleryBuilder:
    """Chooses among groups of units, in order; builders of later units merge."""

    def __init__(self, pipeline: Pipeline) -> None:
        steps = {step.key: step for step in pipeline.steps()}
        self._borders = {
            key: [_border(step, name, mark) for name, mark in _set_thresholds(step)]
            for key, step in steps.items()
        }
        self._outcomes: dict[tuple[SampleKind, Outcome], list[LocatedSample]] = {}
        self._errors: dict[str, list[LocatedSample]] = {}

    def add(self, group: VerdictGroup) -> None:
        """Look at the next units."""
        for kind, samples in group.samples.items():
            sample_kind: SampleKind = "image" if samples.branch.splitter is None else "clip"
            whole = _Placed(
                group,
                sample_kind,
                samples.source,
                samples.sample_id,
                samples.start_s,
                samples.end_s,
                group.of_samples(kind),
            )
            self._add_near(whole, samples.evaluator, np.ones(samples.evaluator.number, np.bool_))
            leaves = group.leaves[kind]
            placed = _Placed(
                group,
                sample_kind,
                leaves.source,
                leaves.sample_id,
                leaves.start_s,
                leaves.end_s,
                leaves.verdicts,
            )
            passed = samples.verdicts.outcome[leaves.sample] == KEPT
            self._add_near(placed, leaves.evaluator, passed)
            self._add_examples(placed)

    def merge(self, other: GalleryBuilder) -> None:
        """Take in what another builder chose of later units."""
        for key, borders in self._borders.items():
            for mine, theirs in zip(borders, other._borders[key], strict=True):
                mine.merge(theirs)
        for outcome, found in other._outcomes.items():
            self._outcomes[outcome] = _drawn([*self._outcomes.get(outcome, []), *found], EACH_OUTCOME)
        for error, found in other._errors.items():
            self._errors[error] = _drawn([*self._errors.get(error, []), *found], EACH_ERROR)

    def finish(self) -> Gallery:
        """What was chosen."""
        return Gallery(
            [border for borders in self._borders.values() for border in borders],
            dict(sorted(self._outcomes.items(), key=lambda item: (item[0][0], OUTCOMES.index(item[0][1])))),
            dict(sorted(self._errors.items())),
        )

    def _add_near(self, placed: _Placed, evaluator: RuleEvaluator, among: NDArray[np.bool_]) -> None:
        for key, measured in evaluator.measured.items():
            for border, mark in zip(self._borders[key], _marks(placed.group, evaluator, key), strict=True):
                values = measured.values[border.column]
                known = among & measured.ok & ~np.isnan(values)
                passes = mark.passes_each(values, border.threshold)
                found = _border_like(border)
                found.rejected, found.num_rejected = _nearest(placed, values, known & ~passes, border)
                found.passed, found.num_passed = _nearest(placed, values, known & passes, border)
                border.merge(found)

    def _add_examples(self, placed: _Placed) -> None:
        verdicts = placed.verdicts
        for code, outcome in enumerate(OUTCOMES):
            places = np.flatnonzero(verdicts.outcome == code)
            if len(places):
                key = placed.kind, outcome
                self._outcomes[key] = _draw(placed, places, self._outcomes.get(key, []), EACH_OUTCOME)
        failed = verdicts.outcome == FAILED
        for label in np.unique(verdicts.reason[failed & (verdicts.reason != NONE)]).tolist():
            error = placed.group.labels.texts[label]
            places = np.flatnonzero(failed & (verdicts.reason == label))
            self._errors[error] = _draw(placed, places, self._errors.get(error, []), EACH_ERROR)


def _set_thresholds(step: Step) -> list[tuple[str, Threshold]]:
    thresholds = step.stage.thresholds().items()
    return [(name, mark) for name, mark in thresholds if getattr(step.stage.config, name) is not None]


def _marks(group: VerdictGroup, evaluator: RuleEvaluator, key: str) -> list[Threshold]:
    """The thresholds of a step in the order of its borders."""
    return [mark for _, mark in _set_thresholds(group.steps[evaluator.steps[key]])]


def _border(step: Step, name: str, mark: Threshold) -> Border:
    return Border(step.key, name, mark.column, mark.sign, float(getattr(step.stage.config, name)))


def _border_like(border: Border) -> Border:
    return Border(border.step, border.setting, border.column, border.sign, border.threshold)


def _nearest(
    placed: _Placed, values: NDArray[np.float64], among: NDArray[np.bool_], border: Border
) -> tuple[list[Near], int]:
    """The samples `among` them that are nearest to a threshold, and how many there are to choose from."""
    places = np.flatnonzero(among)
    distances = np.abs(values[places] - border.threshold)
    chosen = places
    if len(places) > EACH_SIDE:
        farthest = np.partition(distances, EACH_SIDE - 1)[EACH_SIDE - 1]
        nearer, ties = places[distances < farthest], places[distances == farthest]
        lowest = _lowest(placed.sample_id.take(pa.array(ties)), EACH_SIDE - len(nearer))
        chosen = np.concatenate([nearer, ties[lowest]])
    return placed.near(chosen, values[chosen]), len(places)


def _lowest(ids: pa.Array, number: int) -> NDArray[np.int64]:
    """Places of the lowest ids. As ids are hashes, this is a draw that depends on them alone."""
    found: NDArray[np.int64] = pc.bottom_k_unstable(ids, number).to_numpy().astype(np.int64)
    return found


def _draw(
    placed: _Placed, places: NDArray[np.int64], before: list[LocatedSample], number: int
) -> list[LocatedSample]:
    """Those with the lowest ids of the samples at these places and of those drawn `before`."""
    ids = placed.sample_id.take(pa.array(places))
    if len(before) == number:
        lower = pc.less(ids, before[-1].sample.sample_id).to_numpy(zero_copy_only=False)
        places, ids = places[lower], ids.filter(pa.array(lower))
    return _drawn([*before, *placed.located(places[_lowest(ids, number)])], number)


def _drawn(found: list[LocatedSample], number: int) -> list[LocatedSample]:
    """Those with the lowest ids."""
    return sorted(found, key=lambda one: one.sample.sample_id)[:number]


def units_of(samples: Sequence[LocatedSample]) -> Mapping[int, Mapping[str, list[Sample]]]:
    """Unit -> source id -> its samples among these."""
    found: dict[int, dict[str, list[Sample]]] = {}
    for one in samples:
        found.setdefault(one.unit, {}).setdefault(one.sample.source_id, []).append(one.sample)
    return found
