"""The summary of a dataset: sources and samples in = kept + rejected + failed + pending, step by step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from curation.errors import LedgerError
from curation.ledger import Ledger
from curation.ledger.unit_state import SampleVerdict, SourceVerdict, scan_verdicts
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, any_ofs_of, decide, describe_rule, passed_by
from curation.records import Outcome, SampleKind, Source, SourceKind

MAX_EXAMPLES = 100
OUTCOMES = (Outcome.KEPT, Outcome.REJECTED, Outcome.FAILED, Outcome.PENDING)
"""What a source or sample that is there can end as; these add up to what came in."""


@dataclass
class StepSummary:
    """How samples fared at one step. `measured` = kept + rejected + failed."""

    key: str
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    values: dict[str, list[float]] = field(default_factory=dict)
    """column -> its values, for the columns that thresholds look at."""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """What the stage itself sums up over its rows: group -> name -> number."""

    @property
    def measured(self) -> int:
        """Samples with a row."""
        return self.outcomes.total()


@dataclass(frozen=True)
class Failure:
    """One thing that failed: where, and why."""

    uri: str
    sample_id: str | None
    step: str
    error_type: str
    error: str


@dataclass
class Summary:
    """Counts over the whole dataset."""

    sources: dict[SourceKind, Counter[Outcome]] = field(default_factory=dict)
    samples: dict[SampleKind, Counter[Outcome]] = field(default_factory=dict)
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(kind, step, reason) of rejected and failed samples."""
    steps: dict[str, StepSummary] = field(default_factory=dict)
    kept_by: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    """(kind, `any_of` as people write it) -> branch -> samples that it let through."""
    failures: list[Failure] = field(default_factory=list)
    num_failures: int = 0
    gone: Counter[SourceKind] = field(default_factory=Counter)
    """Sources that are no longer in the inputs, which count nowhere else."""
    gone_examples: list[str] = field(default_factory=list)

    def failed_fraction(self) -> float:
        """The larger of the shares of failed sources and of failed samples."""
        shares = []
        for group in (self.sources, self.samples):
            total = sum(counts.total() for counts in group.values())
            failed = sum(counts[Outcome.FAILED] for counts in group.values())
            shares.append(failed / total if total else 0.0)
        return max(shares)

    def outcome_totals(self) -> dict[str, dict[str, int]]:
        """Kind -> outcome -> count, of sources ("image sources") and samples ("images", "clips")."""
        named: dict[str, Counter[Outcome]] = {
            f"{kind} sources": counts for kind, counts in self.sources.items()
        }
        named.update({f"{kind}s": counts for kind, counts in self.samples.items()})
        return {
            name: {"in": counts.total(), **{outcome.value: counts[outcome] for outcome in OUTCOMES}}
            for name, counts in named.items()
        }


def summarize(ledger: Ledger, pipeline: Pipeline) -> Summary:
    """Count everything, and make sure that nothing is counted twice or lost.

    Raises:
        LedgerError: the summary don't balance.
    """
    keeper = _Keeper(pipeline)
    for state, judged in scan_verdicts(ledger, pipeline):
        if len(judged) != len(state.sources):
            raise LedgerError(f"unit {state.unit}: {len(state.sources)} sources, {len(judged)} verdicts")
        for source in judged:
            keeper.take(source)
        for gone in state.gone:
            keeper.take_gone(gone)
        keeper.check_orphans(state.rows, judged)
    return keeper.summary


class _Keeper:
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._seen: set[str] = set()
        self._splitters = {branch.splitter.key for branch in pipeline.branches.values() if branch.splitter}
        self.summary = Summary(
            steps={step.key: StepSummary(step.key) for step in pipeline.steps()},
            kept_by={
                (f"{kind}s", describe_rule(rule)): {describe_rule(part): 0 for part in rule.rules}
                for kind, branch in pipeline.branches.items()
                for rule in any_ofs_of(branch.rule)
            },
        )

    def take(self, judged: SourceVerdict) -> None:
        source = judged.source
        self._once(source.source_id, f"source {source.uri}")
        self.summary.sources.setdefault(source.kind, Counter())[judged.verdict.outcome] += 1
        if not judged.samples and judged.verdict.outcome is Outcome.FAILED:
            self._source_failure(judged)
        for sample in judged.samples:
            self._count_steps(sample)
            for rule, part in passed_by(self._pipeline.branches[source.kind].rule, sample.rows):
                self.summary.kept_by[f"{source.kind}s", describe_rule(rule)][describe_rule(part)] += 1
            for leaf in sample.leaves():
                self._leaf(judged, sample, leaf)

    def take_gone(self, source: Source) -> None:
        """Count a source that is no longer in the inputs."""
        self._once(source.source_id, f"source {source.uri}")
        self.summary.sources.setdefault(source.kind, Counter())
        self.summary.gone[source.kind] += 1
        if len(self.summary.gone_examples) < MAX_EXAMPLES:
            self.summary.gone_examples.append(source.uri)

    def check_orphans(self, rows: dict[str, dict[str, Any]], judged: list[SourceVerdict]) -> None:
        """Every clip in the ledger belongs to a source of its unit, and was counted."""
        known = {source.source.source_id for source in judged}
        for key in self._splitters:
            for row in rows.get(key, {}).values():
                if row.ok and row.values["source_id"] in known and row.sample_id not in self._seen:
                    raise LedgerError(f"clip {row.sample_id} is in the ledger and in no book")

    def _once(self, identifier: str, what: str) -> None:
        if identifier in self._seen:
            raise LedgerError(f"{what} is in the ledger twice")
        self._seen.add(identifier)

    def _leaf(self, judged: SourceVerdict, sample: SampleVerdict, leaf: SampleVerdict) -> None:
        verdict = leaf.verdict
        self._once(leaf.sample.sample_id, f"sample {leaf.sample.sample_id}")
        if leaf is not sample:
            self._seen.add(sample.sample.sample_id)
            self._count_steps(leaf)
        self.summary.samples.setdefault(leaf.sample.kind, Counter())[verdict.outcome] += 1
        if verdict.reason and verdict.step:
            self.summary.reasons[leaf.sample.kind, verdict.step.key, verdict.reason] += 1
        failed = {(row.error_type, row.error): (key, row) for key, row in leaf.rows.items() if not row.ok}
        for key, row in failed.values():
            self._failure(judged.source.uri, leaf.sample.sample_id, key, row.error_type, row.error)

    def _count_steps(self, sample: SampleVerdict) -> None:
        for step in self._pipeline.steps():
            row = sample.rows.get(step.key)
            if row is None:
                continue
            summary = self.summary.steps[step.key]
            verdict = decide(step, sample.rows)
            summary.outcomes[verdict.outcome] += 1
            if verdict.reason:
                summary.reasons[verdict.reason] += 1
            _note_values(summary, step, row.values)
            for group, name, number in step.stage.counts(row):
                summary.counts.setdefault(group, Counter())[name] += number

    def _source_failure(self, judged: SourceVerdict) -> None:
        source, step = judged.source, judged.verdict.step
        if step is not None:
            self.summary.steps[step.key].outcomes[Outcome.FAILED] += 1
        key = step.key if step else "probe"
        self._failure(source.uri, None, key, judged.verdict.reason, judged.error)

    def _failure(
        self, uri: str, sample_id: str | None, step: str, error_type: str | None, error: str | None
    ) -> None:
        self.summary.num_failures += 1
        if len(self.summary.failures) < MAX_EXAMPLES:
            self.summary.failures.append(Failure(uri, sample_id, step, error_type or "", error or ""))


def _note_values(summary: StepSummary, step: Step, values: Any) -> None:
    for mark in step.stage.thresholds().values():
        value = values.get(mark.column)
        if value is not None:
            summary.values.setdefault(mark.column, []).append(float(value))
