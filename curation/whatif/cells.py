"""Samples that no point of a sweep tells apart, counted together.

A sweep reads the ledger once and forgets the samples: what the rule can see of one is which steps measured
it, by which errors they failed, and which stops of each threshold its values pass. Samples that agree in all
of this fare alike at every point, so one of them is judged for all (a cell), by the arithmetic that judges
samples. There are as many cells as combinations that occur, whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.ledger.columns import NONE, Labels, Measured, RuleEvaluator
from curation.ledger.verdict_group import VerdictGroup
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, steps_of
from curation.records import SourceKind
from curation.stage import Threshold
from curation.whatif.axes import Axis

GRID = ("grid_t", "grid_h", "grid_w")


@dataclass(frozen=True)
class Cells:
    """The samples of one kind of source, and the windows that they would have if they were kept.

    Attributes:
        evaluator: One sample, or window, of each cell: what the filters measured of the sample, captions and
            tokens of the window.
        is_first: bool [C], of windows: whether they are the first of their sample, which stands for the
            sample itself.
        number: float64 [C], samples or windows in each cell.
        num_windows: float64 [C], how many of these are windows of longer clips.
        seconds: float64 [C], their length together.
        tokens: float64 [C], their vision tokens together, as far as they have been made.
    """

    evaluator: RuleEvaluator
    is_first: NDArray[np.bool_]
    number: NDArray[np.float64]
    num_windows: NDArray[np.float64]
    seconds: NDArray[np.float64]
    tokens: NDArray[np.float64]


class CellsBuilder:
    """Sorts groups of verdicts into cells; they must have been read with `all_windows` and `columns`."""

    def __init__(self, pipeline: Pipeline, kind: SourceKind, axes: Sequence[Axis]) -> None:
        self._kind = kind
        self._steps = [*steps_of(pipeline.branches[kind].whole_rule), *steps_of(pipeline.enrich)]
        self._stops = {step.key: _stops_of(step, axes) for step in self._steps}
        self._tokenizer = pipeline.producer("codes")
        self.columns = {self._tokenizer.key: GRID} if self._tokenizer else {}
        self._places: dict[bytes, int] = {}
        self._parts: list[tuple[dict[str, Measured], NDArray[np.bool_]]] = []
        self._sums = np.zeros((0, 4))
        self._codes: Mapping[str, int] = {}
        self._labels = Labels()

    def add(self, group: VerdictGroup) -> None:
        """Count the next units."""
        samples, leaves = group.samples[self._kind], group.leaves[self._kind]
        self._codes, self._labels = samples.evaluator.steps, samples.evaluator.labels
        if not len(leaves.sample):
            return
        measured = {key: one.take(leaves.sample) for key, one in samples.evaluator.measured.items()}
        measured |= leaves.evaluator.measured
        is_first = np.diff(leaves.sample, prepend=-1) > 0
        keys = np.stack([is_first.astype(np.int32), *self._seen_of(measured)], axis=1)
        kinds, firsts, cell = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        places = self._places_of(kinds)
        is_new = places >= len(self._sums)
        self._parts.append(
            ({key: one.take(firsts[is_new]) for key, one in measured.items()}, is_first[firsts[is_new]])
        )
        self._sums = np.concatenate([self._sums, np.zeros((int(is_new.sum()), 4))])
        amounts = (
            np.ones(len(leaves.sample)),
            leaves.is_window.astype(np.float64),
            leaves.end_s - leaves.start_s,
            self._tokens_of(group, leaves.sample_id),
        )
        for column, amount in enumerate(amounts):
            self._sums[places, column] += np.bincount(cell.reshape(-1), amount, len(kinds))

    def finish(self) -> Cells:
        """The cells."""
        measured = {
            step.key: _joined([one[step.key] for one, _ in self._parts])
            for step in self._steps
            if self._parts
        }
        is_first = [first for _, first in self._parts]
        evaluator = RuleEvaluator(measured, len(self._sums), self._codes, self._labels)
        return Cells(evaluator, np.concatenate([np.zeros(0, np.bool_), *is_first]), *self._sums.T)

    def _seen_of(self, measured: Mapping[str, Measured]) -> Iterable[NDArray[np.int32]]:
        """What the rule can see of each sample [N]: columns of small numbers."""
        for step in self._steps:
            one = measured[step.key]
            yield np.where(one.present, np.where(one.ok, 1, 2 + one.error - NONE), 0).astype(np.int32)
            for mark, stops in self._stops[step.key]:
                yield np.where(one.ok, _num_passed(mark, one.values[mark.column], stops), 0).astype(np.int32)

    def _places_of(self, kinds: NDArray[np.int32]) -> NDArray[np.int64]:
        """The cell of each key; new ones come after all others."""
        found = [self._places.setdefault(kind.tobytes(), len(self._places)) for kind in kinds]
        return np.array(found, np.int64)

    def _tokens_of(self, group: VerdictGroup, sample_id: pa.Array) -> NDArray[np.float64]:
        """Vision tokens of each sample, 0 where there are none yet."""
        if self._tokenizer is None:
            return np.zeros(len(sample_id))
        rows = group.rows_of(self._tokenizer.key, sample_id)
        sides = [rows[name].cast(pa.float64()).fill_null(0).to_numpy() for name in GRID]
        found: NDArray[np.float64] = np.prod(sides, axis=0)
        return found


def _stops_of(step: Step, axes: Sequence[Axis]) -> list[tuple[Threshold, NDArray[np.float64]]]:
    """Each threshold with all values that it takes, from the one that most pass to the strictest."""
    found = []
    for name, mark in step.stage.thresholds().items():
        values = {getattr(step.stage.config, name)}
        values |= {
            value for axis in axes if (axis.step.key, axis.name) == (step.key, name) for value in axis.values
        }
        stops = np.array(sorted(float(value) for value in values if value is not None))
        if len(stops) and mark.passes(stops[0], stops[-1]) and stops[0] != stops[-1]:
            stops = stops[::-1]
        found.append((mark, stops))
    return found


def _num_passed(
    mark: Threshold, values: NDArray[np.float64], stops: NDArray[np.float64]
) -> NDArray[np.int64]:
    """How many of the stops, in the order of `_stops_of`, each value [N] passes: by halving."""
    low, high = np.zeros(len(values), np.int64), np.full(len(values), len(stops))
    while len(stops) and (low < high).any():
        middle = (low + high) // 2
        passes = mark.passes_each(values, stops[np.minimum(middle, len(stops) - 1)])
        low, high = np.where((low < high) & passes, middle + 1, low), np.where(passes, high, middle)
        high = np.maximum(low, high)
    return low


def _joined(parts: Sequence[Measured]) -> Measured:
    return Measured(
        np.concatenate([part.present for part in parts]),
        np.concatenate([part.ok for part in parts]),
        np.concatenate([part.error for part in parts]),
        {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
    )
