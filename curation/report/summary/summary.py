"""The summary of a dataset: sources and samples in = kept + rejected + failed + pending, step by step.

    summary = summarize(ledger, pipeline)

Or along with whatever else goes through the verdicts, or in parts that merge:

    builder = SummaryBuilder(pipeline)
    for group in verdict_groups(
        ledger, pipeline, source_columns=builder.source_columns, columns=builder.columns
    ):
        builder.add(group)
    summary = builder.finish()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import LedgerError
from curation.ledger import Ledger
from curation.ledger.absent import absent_sources
from curation.ledger.columns import KEPT, NONE, OUTCOMES, RuleEvaluator
from curation.ledger.digests import Digests, unpacked
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import any_ofs_of, describe_rule
from curation.records import Outcome, SampleKind, SourceKind
from curation.report.gallery.samples import Gallery, GalleryBuilder
from curation.report.joint.joint import Joint, JointBuilder
from curation.report.summary.failures import failures_of
from curation.report.summary.histogram import Histogram

MAX_EXAMPLES = 100
EXAMPLES_EACH = 3
"""Failures of each type of error that are shown."""


@dataclass
class StepSummary:
    """How the samples that the rule brings to one step fared there. `measured` = kept + rejected + failed."""

    key: str
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    num_waiting: int = 0
    """Samples, and sources to be split, that the step is still to measure."""
    num_unasked: int = 0
    """Samples with a row that the rule does not ask for as the thresholds stand, such as one of a branch
    behind the one that keeps them. They count nowhere else here."""
    reasons: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    """column -> its values, for the columns that thresholds look at."""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """What the stage itself sums up over its rows: group -> name -> number."""

    @property
    def measured(self) -> int:
        """Samples with a row that the rule asks for."""
        return self.outcomes.total()

    def merge(self, other: StepSummary) -> None:
        """Take in what was counted elsewhere."""
        self.outcomes.update(other.outcomes)
        self.num_waiting += other.num_waiting
        self.num_unasked += other.num_unasked
        self.reasons.update(other.reasons)
        for column, histogram in other.histograms.items():
            self.histograms.setdefault(column, Histogram()).merge(histogram)
        _merge_counts(self.counts, other.counts)


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
    failed_by: Counter[str] = field(default_factory=Counter)
    """Type of error -> how often something failed by it."""
    failed_examples: dict[str, list[Failure]] = field(default_factory=dict)
    """The first failures of each type."""
    gone: Counter[SourceKind] = field(default_factory=Counter)
    """Sources that are no longer in the inputs, which count nowhere else."""
    gone_examples: list[str] = field(default_factory=list)
    gallery: Gallery = field(default_factory=Gallery, compare=False)
    """The samples that a page shows."""
    joints: dict[SourceKind, Joint] = field(default_factory=dict, compare=False)
    """What a page recomputes other thresholds from."""

    def failed_fraction(self) -> float:
        """The larger of the shares of failed sources and of failed samples."""
        shares = []
        for group in (self.sources, self.samples):
            total = sum(counts.total() for counts in group.values())
            failed = sum(counts[Outcome.FAILED] for counts in group.values())
            shares.append(failed / total if total else 0.0)
        return max(shares)

    def outcome_totals(self) -> dict[str, dict[str, int]]:
        """Kind -> outcome -> count, of sources ("image sources") and samples ("images", "clips").

        Kinds of sources stand in one order, whatever lies in the first unit.
        """
        named: dict[str, Counter[Outcome]] = {
            f"{kind} sources": self.sources[kind] for kind in get_args(SourceKind) if kind in self.sources
        }
        named.update({f"{kind}s": counts for kind, counts in self.samples.items()})
        return {
            name: {"in": counts.total(), **{outcome.value: counts[outcome] for outcome in OUTCOMES}}
            for name, counts in named.items()
        }

    def merge(self, other: Summary) -> None:
        """Take in the summary of later units."""
        _merge_counts(self.sources, other.sources)
        _merge_counts(self.samples, other.samples)
        self.reasons.update(other.reasons)
        for key, step in other.steps.items():
            self.steps.setdefault(key, StepSummary(key)).merge(step)
        for rule, kept in other.kept_by.items():
            mine = self.kept_by.setdefault(rule, {})
            for branch, number in kept.items():
                mine[branch] = mine.get(branch, 0) + number
        self.failures = [*self.failures, *other.failures][:MAX_EXAMPLES]
        self.num_failures += other.num_failures
        self.failed_by.update(other.failed_by)
        for kind, failures in other.failed_examples.items():
            self.failed_examples[kind] = [*self.failed_examples.get(kind, []), *failures][:EXAMPLES_EACH]
        self.gone.update(other.gone)
        self.gone_examples = [*self.gone_examples, *other.gone_examples][:MAX_EXAMPLES]


def _merge_counts(into: dict[Any, Counter[Any]], other: Mapping[Any, Counter[Any]]) -> None:
    for key, counts in other.items():
        into.setdefault(key, Counter()).update(counts)


def summarize(ledger: Ledger, pipeline: Pipeline) -> Summary:
    """Count everything, and make sure that nothing is counted twice or lost.

    Raises:
        LedgerError: the summary does not balance.
    """
    builder = SummaryBuilder(pipeline)
    absent = absent_sources(ledger)
    for group in verdict_groups(
        ledger, pipeline, source_columns=builder.source_columns, columns=builder.columns, absent=absent
    ):
        builder.add(group)
    return builder.finish(absent.unread)


class SummaryBuilder:
    """Counts groups of units, in order; builders of other units merge.

    Attributes:
        source_columns, columns: What the groups must have been read with.
    """

    source_columns: ClassVar = ("uri", "error")

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._seen = Digests()
        self._gallery = GalleryBuilder(pipeline)
        self._joint = JointBuilder(pipeline)
        self.columns = {step.key: ("error", *step.stage.counted_columns) for step in pipeline.steps()}
        self._summary = Summary(
            steps={step.key: StepSummary(step.key) for step in pipeline.steps()},
            kept_by={
                (f"{kind}s", describe_rule(rule)): {describe_rule(part): 0 for part in rule.rules}
                for kind, branch in pipeline.branches.items()
                for rule in any_ofs_of(branch.rule)
            },
        )

    def add(self, group: VerdictGroup) -> None:
        """Count the next units.

        Raises:
            LedgerError: a clip of theirs contradicts its splitter.
        """
        if len(group.uncounted):
            raise LedgerError(f"clip {group.uncounted[0]} is in the ledger, but its splitter says it failed")
        self._seen.add(unpacked(group.sources["source_id"]))
        self._joint.add(group)
        self._count_sources(group)
        self._count_gone(group)
        for kind in group.samples:
            self._count_samples(group, kind)
            self._count_leaves(group, kind)
        self._note_failures(group)
        self._gallery.add(group)

    def merge(self, other: SummaryBuilder) -> None:
        """Take in what another builder counted, of later units."""
        self._seen.merge(other._seen)
        self._gallery.merge(other._gallery)
        self._joint.merge(other._joint)
        self._summary.merge(other._summary)

    def finish(self, unread: Mapping[SourceKind, int] | None = None) -> Summary:
        """The summary; sources that are listed and `unread` are pending.

        Raises:
            LedgerError: a source or a sample was counted twice.
        """
        twice = self._seen.repeated()
        if twice:
            raise LedgerError(f"{len(twice)} ids are in the ledger twice: {', '.join(twice[:MAX_EXAMPLES])}")
        sources = {kind: Counter(counts) for kind, counts in self._summary.sources.items()}
        for kind, number in (unread or {}).items():
            sources.setdefault(kind, Counter())[Outcome.PENDING] += number
        gallery, joints = self._gallery.finish(), self._joint.finish()
        return replace(self._summary, sources=sources, gallery=gallery, joints=joints)

    def _count_sources(self, group: VerdictGroup) -> None:
        kinds = group.sources["kind"]
        for kind in kinds.unique().to_pylist():
            of_kind = pc.equal(kinds, kind).to_numpy()
            counts = self._summary.sources.setdefault(kind, Counter())
            counts.update(_outcomes(group.of_sources.outcome[of_kind]))

    def _count_gone(self, group: VerdictGroup) -> None:
        """Count the sources that are no longer in the inputs."""
        if not group.gone.num_rows:
            return
        self._seen.add(unpacked(group.gone["source_id"]))
        for kind, number in Counter(group.gone["kind"].to_pylist()).items():
            self._summary.sources.setdefault(kind, Counter())
            self._summary.gone[kind] += number
        room = MAX_EXAMPLES - len(self._summary.gone_examples)
        self._summary.gone_examples += group.gone["uri"][:room].to_pylist()

    def _count_samples(self, group: VerdictGroup, kind: SourceKind) -> None:
        """Count what the steps of the rule say of samples, and what each branch of an `any_of` kept."""
        samples = group.samples[kind]
        everyone = np.ones(samples.evaluator.number, np.bool_)
        asked = samples.evaluator.asked(samples.branch.whole_rule, everyone)
        for key in samples.evaluator.measured:
            self._count_step(group, key, samples.evaluator, samples.sample_id, asked[key])
        if samples.branch.splitter is not None:
            self._summary.steps[samples.branch.splitter.key].num_waiting += int(group.unsplit(kind).sum())
        for rule, part, passed in samples.evaluator.passed_by(samples.branch.rule):
            counts = self._summary.kept_by[f"{kind}s", describe_rule(rule)]
            counts[describe_rule(part)] += int(passed.sum())

    def _count_leaves(self, group: VerdictGroup, kind: SourceKind) -> None:
        """Count how samples and windows end, and what captions and tokens say of them."""
        leaves = group.leaves[kind]
        if not len(leaves.source):
            return
        self._seen.add(unpacked(leaves.sample_id))
        passed = group.samples[kind].verdicts.outcome[leaves.sample] == KEPT
        asked = leaves.evaluator.asked(self._pipeline.enrich, passed)
        for key in leaves.evaluator.measured:
            self._count_step(group, key, leaves.evaluator, leaves.sample_id, asked[key])
        sample_kind = _sample_kind(group, kind)
        verdicts = leaves.verdicts
        self._summary.samples.setdefault(sample_kind, Counter()).update(_outcomes(verdicts.outcome))
        for code in _tally(verdicts.step):
            key = group.steps[code].key
            for reason, number in _tally(verdicts.reason[verdicts.step == code]).items():
                self._summary.reasons[sample_kind, key, group.labels.texts[reason]] += number

    def _count_step(
        self,
        group: VerdictGroup,
        key: str,
        evaluator: RuleEvaluator,
        sample_id: pa.Array,
        asked: NDArray[np.bool_],
    ) -> None:
        """Count what one step says of these samples, of those that the rule brings to it."""
        step, summary, measured = (
            group.steps[evaluator.steps[key]],
            self._summary.steps[key],
            evaluator.measured[key],
        )
        counted = measured.present & asked
        summary.num_waiting += int((asked & ~measured.present).sum())
        summary.num_unasked += int((measured.present & ~asked).sum())
        verdicts = evaluator.decide(step)
        summary.outcomes.update(_outcomes(verdicts.outcome[counted]))
        for reason, number in _tally(verdicts.reason[counted]).items():
            summary.reasons[group.labels.texts[reason]] += number
        for column, values in measured.values.items():
            found = values[counted]
            if not np.isnan(found).all():
                summary.histograms.setdefault(column, Histogram()).add(found)
        if step.stage.counted_columns and counted.any():
            rows = group.rows_of(key, sample_id.filter(pa.array(counted)))
            for name, what, number in step.stage.counts(rows):
                summary.counts.setdefault(name, Counter())[what] += number

    def _note_failures(self, group: VerdictGroup) -> None:
        found = failures_of(group)
        summary = self._summary
        summary.num_failures += found.num_rows
        for step in found.filter(pc.is_null(found["sample_id"]))["step"].to_pylist():
            if step in summary.steps:
                summary.steps[step].outcomes[Outcome.FAILED] += 1
        summary.failures += _failures(group, found[: MAX_EXAMPLES - len(summary.failures)])
        kinds = found["error_type"].fill_null("")
        for kind, number in Counter(kinds.to_pylist()).items():
            shown = summary.failed_examples.setdefault(kind, [])
            mine = found.filter(pc.equal(kinds, kind))[: EXAMPLES_EACH - len(shown)]
            summary.failed_by[kind] += number
            shown += _failures(group, mine)


def _failures(group: VerdictGroup, found: pa.Table) -> list[Failure]:
    """Failures as records; `found` as `failures_of` gives it."""
    uris = group.sources["uri"].take(found["source"]).to_pylist()
    return [
        Failure(uri, row["sample_id"], row["step"], row["error_type"] or "", row["error"] or "")
        for uri, row in zip(uris, found.to_pylist(), strict=True)
    ]


def _sample_kind(group: VerdictGroup, kind: SourceKind) -> SampleKind:
    return "image" if group.samples[kind].branch.splitter is None else "clip"


def _outcomes(codes: NDArray[np.int8]) -> dict[Outcome, int]:
    """How often each outcome occurs."""
    return {OUTCOMES[code]: number for code, number in _tally(codes).items()}


def _tally(codes: NDArray[Any]) -> dict[int, int]:
    """How often each code occurs, apart from `NONE`."""
    numbers = np.bincount(codes.astype(np.int64) - NONE)[-NONE:]
    return {int(code): int(numbers[code]) for code in np.flatnonzero(numbers)}
