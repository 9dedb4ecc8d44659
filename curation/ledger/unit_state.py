"""A unit as it stands: its sources, the rows measured so far, and a verdict for each of them.

The worker asks it what to do next, `explain` what became of a source; many units are judged by column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from curation.ledger import Ledger
from curation.pipeline import Branch, Pipeline
from curation.pipeline.rules import KEPT, Rows, Step, Verdict, decide, steps_of
from curation.records import Outcome, Row, Sample, Source
from curation.storage.requests import in_order


@dataclass(frozen=True)
class RecomputePolicy:
    """Rows that a run treats as if they were missing.

    Attributes:
        stages: Names of the stages concerned.
        only_failed: Only their failed rows; else all of them.
    """

    stages: frozenset[str] = frozenset()
    only_failed: bool = True

    def counts_as_missing(self, stage: str, row_failed: bool) -> bool:
        """Whether a row of this stage counts as missing."""
        return stage in self.stages and (row_failed or not self.only_failed)


NO_RECOMPUTE = RecomputePolicy()
PROBE = "probe"
"""The name under which reading a header can be repeated and reported, though it is no stage."""


@dataclass(frozen=True, slots=True)
class SampleVerdict:
    """A sample, its rows by step, its verdict; `windows` only where they are not the sample itself."""

    sample: Sample
    rows: Rows
    verdict: Verdict
    windows: tuple[SampleVerdict, ...] = ()

    def leaves(self) -> tuple[SampleVerdict, ...]:
        """What ends up in a shard or not: the windows, or the sample itself."""
        return self.windows or (self,)


@dataclass(frozen=True, slots=True)
class SourceVerdict:
    """A source, its samples so far, and a verdict that sums theirs up."""

    source: Source
    samples: tuple[SampleVerdict, ...]
    verdict: Verdict
    error: str | None = None

    def waits_for(self, keys: Collection[str]) -> bool:
        """Whether it, or a leaf of it, waits for one of these steps."""
        verdicts = (self.verdict, *(leaf.verdict for leaf in self.leaves()))
        return any(verdict.needs is not None and verdict.needs.key in keys for verdict in verdicts)

    def leaves(self) -> Iterator[SampleVerdict]:
        """The leaves of all samples."""
        for sample in self.samples:
            yield from sample.leaves()


@dataclass
class UnitState:
    """The sources of a unit and every row that this pipeline's steps have for them.

    Attributes:
        rows: Step key -> sample id -> row.
        forgotten: Step key -> ids of the rows that are measured again although they are there.
    """

    unit: int
    sources: list[Source]
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    forgotten: dict[str, set[str]] = field(default_factory=dict)

    def add(self, step: Step, row: Row) -> None:
        """Take in a row that was just measured."""
        self.rows.setdefault(step.key, {})[row.sample_id] = row

    def rows_of(self, sample_id: str, steps: Iterable[Step]) -> dict[str, Row]:
        """The rows of one sample, by step key."""
        found = {step.key: self.rows.get(step.key, {}).get(sample_id) for step in steps}
        return {key: row for key, row in found.items() if row is not None}

    def spans_of(self, source: Source, splitter: Step) -> list[Sample]:
        """The clips that the splitter found in a source; empty if it has not run or has failed."""
        rows = [
            row
            for row in self.rows.get(splitter.key, {}).values()
            if row.values.get("source_id") == source.source_id
        ]
        clips = [
            Sample(
                sample_id=row.sample_id,
                source_id=source.source_id,
                kind="clip",
                start_s=row.values["start_s"],
                end_s=row.values["end_s"],
            )
            for row in rows
        ]
        return sorted(clips, key=lambda clip: clip.start_s)


def load_unit(
    ledger: Ledger,
    pipeline: Pipeline,
    unit: int,
    *,
    recompute: RecomputePolicy = NO_RECOMPUTE,
    is_new: bool = False,
) -> UnitState:
    """Read a unit from the ledger: all rows but those that `recompute` has made again, no large columns.

    Of one that `is_new` there are no sources yet.
    """
    state = UnitState(unit, [] if is_new else ledger.sources(unit))
    steps = list({step.key: step for step in pipeline.steps()}.values())

    def rows_of(step: Step) -> list[Row]:
        return ledger.rows(step.name, step.fingerprint, unit, without=step.large_columns)

    for step, rows in zip(steps, in_order(ledger.storage, rows_of, steps), strict=True):
        for row in rows:
            if recompute.counts_as_missing(step.name, not row.ok):
                state.forgotten.setdefault(step.key, set()).add(row.sample_id)
            else:
                state.add(step, row)
    return state


def unit_verdicts(pipeline: Pipeline, state: UnitState) -> list[SourceVerdict]:
    """A verdict for every source and sample of a unit."""
    return [source_verdict(pipeline, state, source) for source in state.sources]


def source_verdict(pipeline: Pipeline, state: UnitState, source: Source) -> SourceVerdict:
    """A verdict for a source and its samples.

    A source is kept if one of its samples is; else pending, failed or rejected if one of them is, in
    this order.
    """
    branch = pipeline.branches.get(source.kind)
    if not source.ok:
        return SourceVerdict(source, (), Verdict(Outcome.FAILED, source.error_type), source.error)
    if branch is None:
        return SourceVerdict(source, (), Verdict(Outcome.REJECTED, f"no_rule_for_{source.kind}s"))
    if source.is_hdr and pipeline.config.general.hdr == "reject":
        return SourceVerdict(source, (), Verdict(Outcome.REJECTED, "hdr_rejected"))
    if branch.splitter is None:
        samples = [Sample.of_image(source)]
    else:
        failed = state.rows.get(branch.splitter.key, {}).get(source.source_id)
        if failed is not None:
            verdict = Verdict(Outcome.FAILED, failed.error_type, branch.splitter)
            return SourceVerdict(source, (), verdict, failed.error)
        samples = state.spans_of(source, branch.splitter)
        if not samples:
            return SourceVerdict(source, (), Verdict(Outcome.PENDING, needs=branch.splitter))
    judged = tuple(_sample_verdict(pipeline, branch, state, sample) for sample in samples)
    return SourceVerdict(
        source, judged, _summed(leaf.verdict for sample in judged for leaf in sample.leaves())
    )


def branch_steps(branch: Branch) -> list[Step]:
    """The splitter, then the steps of the rule."""
    return [*filter(None, [branch.splitter]), *steps_of(branch.rule)]


def _sample_verdict(pipeline: Pipeline, branch: Branch, state: UnitState, sample: Sample) -> SampleVerdict:
    rows = state.rows_of(sample.sample_id, branch_steps(branch))
    verdict = decide_sample(branch, rows)
    if verdict.outcome is not Outcome.KEPT:
        return SampleVerdict(sample, rows, verdict)
    windows = tuple(_window_verdict(pipeline, state, window) for window in pipeline.windows(sample))
    if len(windows) == 1 and windows[0].sample.sample_id == sample.sample_id:
        return SampleVerdict(sample, {**rows, **windows[0].rows}, windows[0].verdict)
    return SampleVerdict(sample, rows, _summed(window.verdict for window in windows), windows)


def decide_sample(branch: Branch, rows: Rows) -> Verdict:
    """The filters' verdict; the splitter's own thresholds, such as the shortest clip, come first."""
    if branch.splitter is not None:
        verdict = decide(branch.splitter, rows)
        if verdict.outcome is not Outcome.KEPT:
            return verdict
    return decide(branch.rule, rows)


def _window_verdict(pipeline: Pipeline, state: UnitState, window: Sample) -> SampleVerdict:
    rows = state.rows_of(window.sample_id, steps_of(pipeline.enrich))
    return SampleVerdict(window, rows, decide(pipeline.enrich, rows))


_PRECEDENCE = (Outcome.KEPT, Outcome.PENDING, Outcome.FAILED, Outcome.REJECTED)


def _summed(verdicts: Iterable[Verdict]) -> Verdict:
    found = sorted(verdicts, key=lambda verdict: _PRECEDENCE.index(verdict.outcome))
    if not found or found[0].outcome is Outcome.KEPT:
        return KEPT
    first = found[0]
    reasons = sorted(
        {verdict.reason for verdict in found if verdict.outcome is first.outcome and verdict.reason}
    )
    return Verdict(first.outcome, ", ".join(reasons) or None, first.step, first.needs)
