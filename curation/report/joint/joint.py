"""The joint distribution of what decides: samples with the same codes in every column, counted together.

    builder = JointBuilder(pipeline)
    for group in verdict_groups(ledger, pipeline):
        builder.add(group)
    joints = builder.finish()   # by kind of source

A page recomputes from it who is kept at other thresholds, of several columns at once. Counts are exact at
every stop that a slider has. Memory is bounded: when samples have too many different codes, bins are joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.ledger.columns import KEPT, NONE, OUTCOMES, PENDING, Measured, RuleEvaluator, Verdicts
from curation.ledger.verdict_group import VerdictGroup
from curation.pipeline import Branch, Pipeline
from curation.pipeline.rules import AllOf, Rule, Step, steps_of
from curation.records import Sample, SourceKind
from curation.report.joint.grid import FAILED, MISSING, NULL, Grid, positions

MAX_CELLS = 200_000
"""Different combinations of codes that are held of a kind of source."""
PAGE_CELLS = 40_000
"""Of those that a page gets: at ten columns, 0.6 MB."""
MAX_STOPS = 60
"""Stops of a column's sliders, at most."""
_LEAVES, _SAMPLES = "leaves", "samples"
_END = "end"


@dataclass(frozen=True)
class JointColumn:
    """One column of a step.

    Attributes:
        step: Key of the step.
        column: Its name; None for a step without thresholds, of which only the status counts.
        stops: float64 [S], sorted: where thresholds may stand.
        codes: uint8 [C], of each cell: 0 not measured, 1 failed, 2 without a number (or, of a step without
            thresholds, measured), and above that 3 + the position among the stops (`grid.positions`).
    """

    step: str
    column: str | None
    stops: NDArray[np.float64]
    codes: NDArray[np.uint8]


@dataclass(frozen=True)
class Joint:
    """The cells of one kind of source.

    Attributes:
        rule: Who is kept, before captions and tokens.
        columns: What decides.
        ends: uint8 [C], what becomes of the samples that the rule keeps: an outcome's place in `OUTCOMES`, or
            from `len(OUTCOMES)` on pending: the place of the step that they wait for in `enrich`.
        enrich: Keys of the steps after the rule.
        leaves: int64 [C], what the samples of a cell count for when they are kept: windows count one by one.
        samples: int64 [C], what they count for when they are not.
    """

    rule: Rule
    columns: tuple[JointColumn, ...]
    ends: NDArray[np.uint8]
    enrich: tuple[str, ...]
    leaves: NDArray[np.int64]
    samples: NDArray[np.int64]


class JointBuilder:
    """Counts groups of units; builders of other units merge."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._cells = {kind: _Cells(rule_of(branch)) for kind, branch in pipeline.branches.items()}

    def add(self, group: VerdictGroup) -> None:
        """Count the samples of the next units."""
        for kind, samples in group.samples.items():
            if samples.evaluator.number:
                self._cells[kind].add(group, kind, _ends_of(group, kind, self._pipeline))

    def merge(self, other: JointBuilder) -> None:
        """Take in what another builder counted."""
        for kind, cells in other._cells.items():
            self._cells[kind].merge(cells)

    def finish(self) -> dict[SourceKind, Joint]:
        """The cells of each kind of source that has samples."""
        enrich = tuple(dict.fromkeys(step.key for step in steps_of(self._pipeline.enrich)))
        found = {kind: cells.finish(enrich) for kind, cells in self._cells.items()}
        return {kind: joint for kind, joint in found.items() if len(joint.samples)}


def rule_of(branch: Branch) -> Rule:
    """What a sample has to pass before captions and tokens."""
    return AllOf((branch.splitter, branch.rule)) if branch.splitter else branch.rule


@dataclass(frozen=True)
class _Ends:
    """What becomes of samples once the rule keeps them: a row per sample, or per window of a long clip.

    Attributes:
        sample: int64 [M], place of the sample among those of its kind.
        code: int64 [M], as in `Joint.ends`.
        is_first: int64 [M], 1 for one row of each sample, else 0.
    """

    sample: NDArray[np.int64]
    code: NDArray[np.int64]
    is_first: NDArray[np.int64]


def _ends_of(group: VerdictGroup, kind: SourceKind, pipeline: Pipeline) -> _Ends:
    leaves = group.leaves[kind]
    sample, verdicts = leaves.sample, leaves.evaluator.decide(pipeline.enrich)
    windows = _windows_of_dropped(group, kind, pipeline)
    if windows:
        whole = ~np.isin(sample, [*windows])
        ids = pa.array([window for found in windows.values() for window in found], pa.string())
        more = _decide_anew(group, pipeline.enrich, ids)
        sample = np.concatenate(
            [sample[whole], np.repeat([*windows], [len(ids) for ids in windows.values()])]
        )
        verdicts = _joined_verdicts(verdicts.take(np.flatnonzero(whole)), more)
    keys = list(dict.fromkeys(step.key for step in steps_of(pipeline.enrich)))
    places = np.array([keys.index(step.key) if step.key in keys else 0 for step in group.steps] + [0])
    waiting = len(OUTCOMES) + places[verdicts.needs]
    is_first = np.zeros(len(sample), np.int64)
    is_first[np.unique(sample, return_index=True)[1]] = 1
    return _Ends(sample, np.where(verdicts.outcome == PENDING, waiting, verdicts.outcome), is_first)


def _windows_of_dropped(group: VerdictGroup, kind: SourceKind, pipeline: Pipeline) -> dict[int, list[str]]:
    """The windows that clips would have that the rule does not keep: place of the sample -> ids.

    Of two clips the longer one has windows if the shorter one has: so most are not looked at.
    """
    if kind != "video" or not pipeline.enrich.rules:
        return {}
    samples = group.samples[kind]
    dropped = np.flatnonzero(samples.verdicts.outcome != KEPT)
    durations = samples.end_s[dropped] - samples.start_s[dropped]
    found = {}
    for place in dropped[np.argsort(-durations, kind="stable")].tolist():
        clip = Sample(
            sample_id=samples.sample_id[place].as_py(),
            source_id=group.sources["source_id"][int(samples.source[place])].as_py(),
            kind="clip",
            start_s=float(samples.start_s[place]),
            end_s=float(samples.end_s[place]),
        )
        windows = [window.sample_id for window in pipeline.windows(clip)]
        if windows == [clip.sample_id]:
            break
        found[place] = windows
    return found


def _decide_anew(group: VerdictGroup, rule: Rule, ids: pa.Array) -> Verdicts:
    """How samples that are no leaves of the group stand."""
    steps = {step.key: step for step in steps_of(rule)}
    measured = {key: _measured(group.rows_of(key, ids), step) for key, step in steps.items()}
    codes = {step.key: code for code, step in enumerate(group.steps)}
    return RuleEvaluator(measured, len(ids), codes).decide(rule)


def _measured(rows: pa.Table, step: Step) -> Measured:
    return Measured(
        pc.is_valid(rows["sample_id"]).to_numpy(),
        pc.fill_null(pc.equal(rows["status"], "ok"), False).to_numpy(),
        np.full(rows.num_rows, NONE, np.int32),
        {
            name: rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            for name in deciding_columns(step)
        },
    )


def _joined_verdicts(first: Verdicts, second: Verdicts) -> Verdicts:
    names = ("outcome", "reason", "step", "needs")
    return Verdicts(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in names))


class _Cells:
    """The cells of one kind of source while they are counted: tables of codes, with their spacings."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._columns = [(step, column) for step in _distinct(rule) for column in _columns_of(step)]
        self._grids = [
            Grid.around([] if column is None else present_bounds(step, column))
            for step, column in self._columns
        ]
        self._names = [f"code{place}" for place in range(len(self._grids))]
        self._all_names = [*self._names, _END, _LEAVES, _SAMPLES]
        self._parts: list[tuple[tuple[int, ...], pa.Table]] = []

    def add(self, group: VerdictGroup, kind: SourceKind, ends: _Ends) -> None:
        evaluator = group.samples[kind].evaluator
        codes = []
        for (step, column), grid in zip(self._columns, self._grids, strict=True):
            measured = evaluator.measured[step.key]
            found = np.full(evaluator.number, NULL)
            if column is not None:
                values = measured.values[column]
                known = measured.ok & np.isfinite(values)
                grid.cover(values[known])
                found[known] = grid.encode(values[known])
            found[~measured.ok] = FAILED
            found[~measured.present] = MISSING
            codes.append(found[ends.sample])
        counted = [ends.code, np.ones(len(ends.sample), np.int64), ends.is_first]
        table = pa.table([*codes, *counted], self._all_names)
        self._parts.append((self._spacings(), self._grouped(table)))
        self._keep_small()

    def merge(self, other: _Cells) -> None:
        for grid, theirs in zip(self._grids, other._grids, strict=True):
            grid.merge(theirs)
        self._parts += other._parts
        self._keep_small()

    def finish(self, enrich: tuple[str, ...]) -> Joint:
        table = self._joined()
        distinct = [self._distinct_codes(table, place) for place in range(len(self._grids))]
        most = MAX_STOPS
        while True:
            stops = [one.chosen_stops(grid, most) for one, grid in zip(distinct, self._grids, strict=True)]
            coded = [one.positions(chosen) for one, chosen in zip(distinct, stops, strict=True)]
            cells = self._grouped(pa.table([*coded, *table.columns[len(coded) :]], self._all_names))
            if cells.num_rows <= PAGE_CELLS or most <= 2:
                break
            most = most * 7 // 8
        columns = tuple(
            JointColumn(step.key, column, chosen, cells[name].to_numpy().astype(np.uint8))
            for (step, column), chosen, name in zip(self._columns, stops, self._names, strict=True)
        )
        ends = cells[_END].to_numpy().astype(np.uint8)
        leaves, samples = (cells[name].to_numpy() for name in (_LEAVES, _SAMPLES))
        return Joint(self._rule, columns, ends, enrich, leaves, samples)

    def _spacings(self) -> tuple[int, ...]:
        return tuple(grid.spacing for grid in self._grids)

    def _grouped(self, table: pa.Table) -> pa.Table:
        """One row per combination of codes."""
        keys = [*self._names, _END]
        found = table.group_by(keys, use_threads=False).aggregate([(_LEAVES, "sum"), (_SAMPLES, "sum")])
        sums = [f"{name}_sum" for name in (_LEAVES, _SAMPLES)]
        return found.select([*keys, *sums]).rename_columns(self._all_names)

    def _keep_small(self) -> None:
        """Join the parts when they have grown, and bins where there are too many cells all the same."""
        if sum(part.num_rows for _, part in self._parts) <= 2 * MAX_CELLS:
            return
        table = self._joined()
        while table.num_rows > MAX_CELLS:
            widest = max(self._grids, key=lambda grid: len(grid.occupied))
            if len(widest.occupied) <= 1:
                break
            widest.coarsen()
            table = self._joined()

    def _joined(self) -> pa.Table:
        """All parts as one, in the present spacings."""
        empty = pa.table([pa.array([], pa.int64())] * len(self._all_names), self._all_names)
        tables = [empty, *(self._recoded(table, spacings) for spacings, table in self._parts)]
        joined = self._grouped(pa.concat_tables(tables)).sort_by(
            [(name, "ascending") for name in (*self._names, _END)]
        )
        self._parts = [(self._spacings(), joined)]
        return joined

    def _recoded(self, table: pa.Table, spacings: tuple[int, ...]) -> pa.Table:
        codes = [
            grid.recode(table[name].to_numpy(), spacing)
            for grid, name, spacing in zip(self._grids, self._names, spacings, strict=True)
        ]
        return pa.table([*codes, *table.columns[len(codes) :]], self._all_names)

    def _distinct_codes(self, table: pa.Table, place: int) -> _DistinctCodes:
        codes, cells = np.unique(table[self._names[place]].to_numpy(), return_inverse=True)
        numbers = np.bincount(cells, table[_SAMPLES].to_numpy(), len(codes)).astype(np.float64)
        return _DistinctCodes(codes, self._grids[place].typical(codes), cells, numbers)


@dataclass(frozen=True)
class _DistinctCodes:
    """The codes of one column, each once.

    Attributes:
        codes: int64 [U], sorted.
        typical: float64 [U], a number with each code.
        cells: int64 [C], which code each cell has.
        numbers: float64 [U], samples with each code.
    """

    codes: NDArray[np.int64]
    typical: NDArray[np.float64]
    cells: NDArray[np.int64]
    numbers: NDArray[np.float64]

    def positions(self, stops: NDArray[np.float64]) -> NDArray[np.int64]:
        """The code of each cell as `JointColumn.codes` has it."""
        found = np.where(self.codes > NULL, 3 + positions(self.typical, stops), self.codes - MISSING)
        return np.asarray(found[self.cells], np.int64)

    def chosen_stops(self, grid: Grid, most: int) -> NDArray[np.float64]:
        """The thresholds, both ends, and others: half of them evenly spread, half where the samples are."""
        stops = grid.stops(self._span(grid.bounds))
        if len(stops) <= most:
            return stops
        known = self.codes > NULL
        weights = np.bincount(positions(self.typical[known], stops), self.numbers[known], 2 * len(stops) + 1)
        below = np.cumsum(weights)[::2][:-1] / max(weights.sum(), 1)
        central = stops[(below > 0.005) & (below < 0.995)]
        central = central if len(central) else stops
        half = max((most - 2 - len(grid.bounds)) // 2, 0)
        even = np.searchsorted(stops, np.linspace(central[0], central[-1], half))
        frequent = np.searchsorted(below, np.linspace(0, 1, half + 2)[1:-1])
        picked = np.clip(np.concatenate([even, frequent]), 0, len(stops) - 1).astype(np.int64)
        return np.unique(np.concatenate([stops[picked], stops[[0, -1]], grid.bounds]))

    def _span(self, bounds: NDArray[np.float64]) -> float:
        """Over how much the middle 98 % of the numbers and the thresholds extend; of one number, its size."""
        known = self.codes > NULL
        if not known.any():
            return 0.0
        shares = np.cumsum(self.numbers[known]) / self.numbers[known].sum()
        central = self.typical[known][np.searchsorted(shares, [0.01, 0.99]).clip(max=len(shares) - 1)]
        low, high = min([*central, *bounds]), max([*central, *bounds])
        return float(high - low or abs(high))


def _distinct(rule: Rule) -> Iterator[Step]:
    """The steps of a rule, each once."""
    return iter({step.key: step for step in steps_of(rule)}.values())


def _columns_of(step: Step) -> list[str | None]:
    """Its deciding columns; None for a step that has none, of which the status counts."""
    return [*deciding_columns(step)] or [None]


def deciding_columns(step: Step) -> list[str]:
    """The columns that thresholds of a step look at."""
    return list(dict.fromkeys(mark.column for mark in step.stage.thresholds().values()))


def present_bounds(step: Step, column: str) -> list[float]:
    """The thresholds on a column that are set."""
    found = [
        getattr(step.stage.config, name)
        for name, mark in step.stage.thresholds().items()
        if mark.column == column
    ]
    return [float(value) for value in found if value is not None]
