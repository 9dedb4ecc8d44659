"""Rules by column: `decide` for all samples of a table at once.

The same tree as in `decide`, evaluated over arrays. Scores are compared in float64, whatever their
column's type, exactly as Python compares them: 0.1 stored as float32 is above a threshold of 0.1 in
both. The scalar `decide` stays the definition; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.pipeline.rules import AllOf, AnyOf, Rule, Step
from curation.records import Outcome

OUTCOMES = (Outcome.KEPT, Outcome.REJECTED, Outcome.FAILED, Outcome.PENDING)
"""What a source or sample that is in the inputs can end as; outcome codes are places in this tuple."""
KEPT, REJECTED, FAILED, PENDING = (np.int8(OUTCOMES.index(outcome)) for outcome in OUTCOMES)
NONE = -1
"""Code of an absent reason or step."""


class Labels:
    """Gives each text a small number, in order of appearance."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        self.texts: list[str] = list(known)
        self._codes = {text: code for code, text in enumerate(self.texts)}

    def code(self, text: str) -> int:
        """The number of a text, a new one if it has none yet."""
        if text not in self._codes:
            self._codes[text] = len(self.texts)
            self.texts.append(text)
        return self._codes[text]

    def codes(self, column: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
        """Code of each text of an Arrow column; `NONE` for null."""
        encoded = pc.dictionary_encode(column)
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        table = np.array([*map(self.code, encoded.dictionary.to_pylist()), NONE], np.int32)
        found: NDArray[np.int32] = table[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
        return found

    def column(self, codes: NDArray[Any]) -> pa.DictionaryArray:
        """The texts behind codes, null for `NONE`."""
        indices = pa.array(codes.astype(np.int32), mask=codes == NONE)
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.texts, pa.string()))


@dataclass(frozen=True)
class Measured:
    """What a step measured of N samples.

    Attributes:
        present: bool [N], whether there is a row.
        ok: bool [N], whether it holds values; False where there is no row.
        error: int32 [N], label of the error's type; `NONE` where there is none.
        values: column -> float64 [N], NaN where null or absent. Only columns of thresholds.
    """

    present: NDArray[np.bool_]
    ok: NDArray[np.bool_]
    error: NDArray[np.int32]
    values: Mapping[str, NDArray[np.float64]]

    def take(self, places: NDArray[np.int64]) -> Measured:
        """The samples at these places; -1 stands for one without a row."""
        absent = places < 0
        values = {name: np.where(absent, np.nan, _at(column, places)) for name, column in self.values.items()}
        return Measured(
            _at(self.present, places) & ~absent,
            _at(self.ok, places) & ~absent,
            np.where(absent, NONE, _at(self.error, places)).astype(np.int32),
            values,
        )


def _at(column: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    """`column[places]`, anything at all for -1, also of an empty column."""
    return column[places] if len(column) else np.zeros(len(places), column.dtype)


@dataclass
class Verdicts:
    """How N samples stand; the fields of `rules.Verdict` as columns.

    Attributes:
        outcome: int8 [N], place in `OUTCOMES`.
        reason: int32 [N], label, or `NONE`.
        step: int16 [N], where a rejected or failed sample ended: place in the evaluator's steps, or `NONE`.
        needs: int16 [N], what a pending sample waits for, likewise.
    """

    outcome: NDArray[np.int8]
    reason: NDArray[np.int32]
    step: NDArray[np.int16]
    needs: NDArray[np.int16]

    @staticmethod
    def kept(number: int) -> Verdicts:
        """Every sample kept."""
        return Verdicts(
            np.full(number, KEPT, np.int8),
            np.full(number, NONE, np.int32),
            np.full(number, NONE, np.int16),
            np.full(number, NONE, np.int16),
        )

    def take(self, places: NDArray[np.int64]) -> Verdicts:
        """The verdicts at these places."""
        return Verdicts(self.outcome[places], self.reason[places], self.step[places], self.needs[places])

    def put(self, where: NDArray[np.bool_], other: Verdicts) -> None:
        """Take the verdicts of `other` where `where` holds."""
        for name in ("outcome", "reason", "step", "needs"):
            np.copyto(getattr(self, name), getattr(other, name), where=where)


@dataclass
class RuleEvaluator:
    """Evaluates rules over columns.

    Attributes:
        measured: Step key -> what it measured, of the same N samples in the same order.
        number: N.
        steps: Step key -> its code.
        labels: Of reasons and error types.
    """

    measured: Mapping[str, Measured]
    number: int
    steps: Mapping[str, int]
    labels: Labels = field(default_factory=Labels)

    def decide(self, rule: Rule) -> Verdicts:
        """How the samples stand under a rule."""
        if isinstance(rule, Step):
            return self._step(rule)
        return self._all(rule) if isinstance(rule, AllOf) else self._any(rule)

    def passed_by(self, rule: Rule) -> list[tuple[AnyOf, Rule, NDArray[np.bool_]]]:
        """Each `any_of` of the rule with each of its branches and whom it let through: bool [N]."""
        return self._passed_by(rule, np.ones(self.number, np.bool_))

    def _passed_by(self, rule: Rule, among: NDArray[np.bool_]) -> list[tuple[AnyOf, Rule, NDArray[np.bool_]]]:
        if isinstance(rule, Step):
            return []
        found = []
        for part in rule.rules:
            outcome = self.decide(part).outcome
            if isinstance(rule, AnyOf):
                passed = among & (outcome == KEPT)
                found += [(rule, part, passed), *self._passed_by(part, passed)]
                among = among & (outcome != KEPT) & (outcome != PENDING)
            else:
                found += self._passed_by(part, among)
                among = among & (outcome == KEPT)
        return found

    def asked(self, rule: Rule, among: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        """Step key -> for which of these samples the rule comes to the step: bool [N]."""
        found: dict[str, NDArray[np.bool_]] = {}
        self._ask(rule, among, found)
        return found

    def _ask(self, rule: Rule, among: NDArray[np.bool_], found: dict[str, NDArray[np.bool_]]) -> None:
        if isinstance(rule, Step):
            found[rule.key] = found.get(rule.key, np.zeros(self.number, np.bool_)) | among
            return
        for part in rule.rules:
            self._ask(part, among, found)
            outcome = self.decide(part).outcome
            goes_on = outcome == KEPT if isinstance(rule, AllOf) else (outcome != KEPT) & (outcome != PENDING)
            among = among & goes_on

    def _step(self, step: Step) -> Verdicts:
        rows, code = self.measured[step.key], self.steps[step.key]
        found = Verdicts.kept(self.number)
        undecided = rows.ok.copy()
        for name, mark in step.stage.thresholds().items():
            threshold = getattr(step.stage.config, name)
            if threshold is None:
                continue
            beyond = undecided & ~mark.passes_each(rows.values[mark.column], threshold)
            found.outcome[beyond] = REJECTED
            found.reason[beyond] = self.labels.code(mark.reason)
            found.step[beyond] = code
            undecided &= ~beyond
        failed = rows.present & ~rows.ok
        found.outcome[failed] = FAILED
        found.reason[failed] = rows.error[failed]
        found.step[failed] = code
        found.outcome[~rows.present] = PENDING
        found.needs[~rows.present] = code
        return found

    def _all(self, rule: AllOf) -> Verdicts:
        found = Verdicts.kept(self.number)
        for part in rule.rules:
            standing = found.outcome == KEPT
            if not standing.any():
                break
            found.put(standing, self.decide(part))
        return found

    def _any(self, rule: AnyOf) -> Verdicts:
        """As `rules._decide_any`: the first branch that keeps or waits; failed before rejected."""
        found = Verdicts.kept(self.number)
        settled = np.zeros(self.number, np.bool_)
        ended = []
        for part in rule.rules:
            verdicts = self.decide(part)
            settles = (verdicts.outcome == KEPT) | (verdicts.outcome == PENDING)
            found.put(~settled & settles, verdicts)
            settled |= settles
            ended.append(verdicts)
        self._join(found, ~settled, ended)
        return found

    def _join(self, found: Verdicts, where: NDArray[np.bool_], ended: Sequence[Verdicts]) -> None:
        """Verdicts of samples that every branch rejected or failed, from those of the branches."""
        if not where.any():
            return
        outcomes = np.stack([verdicts.outcome[where] for verdicts in ended])
        some_failed = (outcomes == FAILED).any(axis=0)
        counts = (outcomes == FAILED) | ~some_failed
        last = len(ended) - 1 - np.argmax(counts[::-1], axis=0)
        steps = np.stack([verdicts.step[where] for verdicts in ended])
        reasons = np.stack([verdicts.reason[where] for verdicts in ended])
        found.outcome[where] = np.where(some_failed, FAILED, REJECTED)
        found.step[where] = np.take_along_axis(steps, last[np.newaxis], axis=0)[0]
        found.needs[where] = NONE
        counted = np.where(counts, reasons, NONE - 1)
        firsts, places = _alike(counted)
        joined = np.array([self._joined(counted[:, first]) for first in firsts], np.int32)
        found.reason[where] = joined[places]

    def _joined(self, codes: NDArray[np.int32]) -> int:
        """The label of several reasons in the order of their branches, each once."""
        texts = ["" if code == NONE else self.labels.texts[code] for code in codes if code >= NONE]
        return self.labels.code("+".join(dict.fromkeys(texts)))


def _alike(codes: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct columns of codes [R, N] in order: where each stands first, and which each of the N is.

    `np.unique` of whole columns sorts them as records, which takes several times as long.
    """
    lowest, base = int(codes.min()), int(codes.max()) - int(codes.min()) + 1
    firsts, places = np.zeros(0, np.int64), np.zeros(codes.shape[1], np.int64)
    for row in codes:
        _, firsts, places = np.unique(places * base + (row - lowest), return_index=True, return_inverse=True)
    return firsts, places
