"""Who is kept: a pure function of measured rows and thresholds. No I/O, no media.

A rule is a tree: a stage, all of several rules, any of several rules. `decide` walks it in order and
stops at the first thing that settles it; if a measurement is missing on the way, the verdict is
PENDING and names the stage to measure next. The runner, the report and `explain` all ask here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from curation.dataset_stage import DatasetStage
from curation.pipeline.parts import StepParts
from curation.records import Outcome, Row
from curation.stage import Stage


@dataclass(frozen=True, eq=False)
class Step:
    """A stage as one place of the configuration sets it up.

    Attributes:
        key: The place, such as "images.text".
        fingerprint: Names the numbers: changes when they could.
        is_bound: Whether the fingerprint is complete. That of a dataset-wide stage is not before its
            population is known.
        parts: What the fingerprint is the hash of; of a dataset-wide stage, its population besides.
    """

    key: str
    stage: Stage[Any]
    fingerprint: str
    is_bound: bool = True
    parts: StepParts = field(default_factory=StepParts)

    @property
    def name(self) -> str:
        """The stage's name in the ledger."""
        return self.stage.name

    @property
    def large_columns(self) -> frozenset[str]:
        """The columns that no decision and no report needs."""
        return frozenset(name for name, column in self.stage.columns.items() if column.large)

    @property
    def is_dataset_wide(self) -> bool:
        """Whether it looks at all samples at once."""
        return isinstance(self.stage, DatasetStage)


@dataclass(frozen=True)
class AllOf:
    """Kept if every rule keeps; the rules after a rejection are not looked at."""

    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class AnyOf:
    """Kept if one rule keeps; the rules after that are not looked at."""

    rules: tuple[Rule, ...]


Rule = Step | AllOf | AnyOf


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a sample stands.

    Attributes:
        outcome: Kept, rejected, failed, or pending.
        reason: Why rejected (`<column>_below_min`), or the error's type; several joined by "+".
        step: For a rejected or failed sample, where it ended.
        needs: For a pending sample, the step to measure next.
    """

    outcome: Outcome
    reason: str | None = None
    step: Step | None = None
    needs: Step | None = None


KEPT = Verdict(Outcome.KEPT)

Rows = Mapping[str, Row]
"""Step key -> the sample's row."""


def steps_of(rule: Rule) -> Iterator[Step]:
    """The steps of a rule, in order."""
    if isinstance(rule, Step):
        yield rule
    else:
        for part in rule.rules:
            yield from steps_of(part)


def with_step(rule: Rule, step: Step) -> Rule:
    """The rule with `step` in place of the one with its key."""
    if isinstance(rule, Step):
        return step if rule.key == step.key else rule
    return type(rule)(tuple(with_step(part, step) for part in rule.rules))


def any_ofs_of(rule: Rule) -> Iterator[AnyOf]:
    """Every `any_of` in a rule, the outer before the inner."""
    if isinstance(rule, Step):
        return
    if isinstance(rule, AnyOf):
        yield rule
    for part in rule.rules:
        yield from any_ofs_of(part)


def passed_by(rule: Rule, rows: Rows) -> Iterator[tuple[AnyOf, Rule]]:
    """Each `any_of` that let a sample through, with its branch that did; the outer before the inner.

    What stands behind a rejection is not looked at, as in `decide`.
    """
    if isinstance(rule, Step):
        return
    for part in rule.rules:
        outcome = decide(part, rows).outcome
        if isinstance(rule, AnyOf):
            if outcome is Outcome.KEPT:
                yield rule, part
                yield from passed_by(part, rows)
            if outcome in (Outcome.KEPT, Outcome.PENDING):
                return
        else:
            yield from passed_by(part, rows)
            if outcome is not Outcome.KEPT:
                return


def describe_rule(rule: Rule, *, nested: bool = False) -> str:
    """A rule as people write it: resolution then (aesthetic or (color then text))."""
    if isinstance(rule, Step):
        return rule.name
    words = [describe_rule(part, nested=True) for part in rule.rules]
    joined = (" then " if isinstance(rule, AllOf) else " or ").join(words) or "no filters"
    return f"({joined})" if nested and len(words) > 1 else joined


def decide(rule: Rule, rows: Rows) -> Verdict:
    """How a sample with these rows stands under this rule."""
    if isinstance(rule, Step):
        return _decide_step(rule, rows)
    return _decide_all(rule, rows) if isinstance(rule, AllOf) else _decide_any(rule, rows)


def _decide_step(step: Step, rows: Rows) -> Verdict:
    row = rows.get(step.key)
    if row is None:
        return Verdict(Outcome.PENDING, needs=step)
    if not row.ok:
        return Verdict(Outcome.FAILED, row.error_type, step)
    reason = step.stage.reject_reason(row.values)
    return Verdict(Outcome.REJECTED, reason, step) if reason else KEPT


def _decide_all(rule: AllOf, rows: Rows) -> Verdict:
    for part in rule.rules:
        verdict = decide(part, rows)
        if verdict.outcome is not Outcome.KEPT:
            return verdict
    return KEPT


def _decide_any(rule: AnyOf, rows: Rows) -> Verdict:
    """Failed only if no rule keeps and one could not be measured: then nobody knows."""
    verdicts = []
    for part in rule.rules:
        verdict = decide(part, rows)
        if verdict.outcome in (Outcome.KEPT, Outcome.PENDING):
            return verdict
        verdicts.append(verdict)
    failed = [verdict for verdict in verdicts if verdict.outcome is Outcome.FAILED]
    ended = failed or verdicts
    reason = "+".join(dict.fromkeys(verdict.reason or "" for verdict in ended))
    return Verdict(ended[-1].outcome, reason, ended[-1].step)
