"""A few samples of one outcome, or near a threshold, drawn at random and the same each time.

drawn = draw_samples(ledger, pipeline, Wanted(rejected_by="text", near=0.05), number=20, seed=0)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import ConfigError
from curation.ledger import Ledger
from curation.ledger.columns import NONE, OUTCOMES, RuleEvaluator, Verdicts
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import Outcome, Sample, SourceKind
from curation.registry import suggestion
from curation.report.gallery.samples import LocatedSample
from curation.whatif.axes import find_threshold


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which samples.

    Attributes:
        outcome: How they end; None for any way.
        rejected_by: A step's key or name; several steps may have this name.
        threshold: The key of a threshold that their value is near to; by default that of `rejected_by`.
        near: Distance at most.
    """

    outcome: Outcome | None = None
    rejected_by: str | None = None
    threshold: str | None = None
    near: float | None = None


@dataclass(frozen=True)
class DrawnSample:
    """A sample, how it ends, and the values of the thresholds that it was asked for by."""

    located: LocatedSample
    uri: str
    outcome: Outcome
    reason: str | None
    values: dict[str, float]

    @property
    def sample(self) -> Sample:
        """The sample itself."""
        return self.located.sample


def draw_samples(
    ledger: Ledger, pipeline: Pipeline, wanted: Wanted, *, number: int, seed: int
) -> list[DrawnSample]:
    """At most `number` samples, in the order of the draw.

    Raises:
        ConfigError: there is no such step or threshold, or no step says which threshold is meant.
    """
    steps = _steps_named(pipeline, wanted.rejected_by)
    near = _thresholds_near(pipeline, steps, wanted)
    found: list[tuple[bytes, DrawnSample]] = []
    for group in verdict_groups(ledger, pipeline, source_columns=("uri",)):
        for kind in group.samples:
            verdicts = group.of_samples(kind)
            chosen = _chosen(group, kind, verdicts, wanted, steps, near)
            ids = group.samples[kind].sample_id
            lots = [(_lot(seed, ids[place].as_py()), int(place)) for place in np.flatnonzero(chosen)]
            lots = [(lot, place) for lot, place in lots if len(found) < number or lot < found[-1][0]]
            found += [(lot, _drawn(group, kind, verdicts, place, steps)) for lot, place in lots]
        found = sorted(found, key=lambda pair: pair[0])[:number]
    return [drawn for _, drawn in found]


def _lot(seed: int, sample_id: str) -> bytes:
    return hashlib.blake2b(f"{seed} {sample_id}".encode(), digest_size=8).digest()


def _steps_named(pipeline: Pipeline, name: str | None) -> list[Step]:
    """The steps with this key or name; none where no name is given."""
    if name is None:
        return []
    able = [step for step in pipeline.steps() if step.stage.thresholds()]
    found = [step for step in able if name in (step.key, step.name)]
    if not found:
        known = sorted({text for step in able for text in (step.key, step.name)})
        raise ConfigError(f"nothing is rejected by {name!r}; {suggestion(name, known)}")
    return found


def _thresholds_near(pipeline: Pipeline, steps: list[Step], wanted: Wanted) -> list[tuple[Step, str]]:
    """The thresholds that a value must be near to."""
    if wanted.near is None and wanted.threshold is None:
        return []
    if wanted.near is None:
        raise ConfigError(f"how near to {wanted.threshold}? Name a distance by --near, such as --near 0.05")
    if wanted.threshold is not None:
        found = [find_threshold(pipeline, wanted.threshold)]
    else:
        found = [(step, name) for step in steps for name in step.stage.thresholds()]
    found = [(step, name) for step, name in found if getattr(step.stage.config, name) is not None]
    if not found:
        raise ConfigError(
            "near to which threshold? Name one that is on by --threshold, or a step by --rejected-by"
        )
    return found


def _chosen(
    group: VerdictGroup,
    kind: SourceKind,
    verdicts: Verdicts,
    wanted: Wanted,
    steps: list[Step],
    near: list[tuple[Step, str]],
) -> NDArray[np.bool_]:
    """Which samples of a kind are wanted: bool [N]."""
    evaluator = group.samples[kind].evaluator
    chosen = np.ones(evaluator.number, np.bool_)
    if wanted.outcome is not None:
        chosen &= verdicts.outcome == OUTCOMES.index(wanted.outcome)
    if steps:
        chosen &= _rejected_by(group, verdicts, steps)
    if near:
        chosen &= _is_near(evaluator, near, wanted.near or 0.0)
    return chosen


def _rejected_by(group: VerdictGroup, verdicts: Verdicts, steps: list[Step]) -> NDArray[np.bool_]:
    """Of samples that several branches reject, each of the steps in which they ended counts."""
    reasons = {mark.reason for step in steps for mark in step.stage.thresholds().values()}
    by_reason = [not reasons.isdisjoint(text.replace(", ", "+").split("+")) for text in group.labels.texts]
    is_rejected = verdicts.outcome == OUTCOMES.index(Outcome.REJECTED)
    has_reason = np.array([*by_reason, False], np.bool_)[verdicts.reason]
    found: NDArray[np.bool_] = is_rejected & has_reason
    return found


def _is_near(evaluator: RuleEvaluator, near: list[tuple[Step, str]], distance: float) -> NDArray[np.bool_]:
    found = np.zeros(evaluator.number, np.bool_)
    for step, name in near:
        if step.key in evaluator.measured:
            values = evaluator.measured[step.key].values[step.stage.thresholds()[name].column]
            found |= np.abs(values - getattr(step.stage.config, name)) <= distance
    return found


def _drawn(
    group: VerdictGroup, kind: SourceKind, verdicts: Verdicts, place: int, steps: list[Step]
) -> DrawnSample:
    samples = group.samples[kind]
    source = group.sources.slice(samples.source[place], 1).to_pylist()[0]
    sample = Sample(
        sample_id=samples.sample_id[place].as_py(),
        source_id=source["source_id"],
        kind="image" if samples.branch.splitter is None else "clip",
        start_s=float(samples.start_s[place]),
        end_s=float(samples.end_s[place]),
    )
    reason = verdicts.reason[place]
    wanted = {step.key for step in steps}
    values = {
        column: float(numbers[place])
        for key, measured in samples.evaluator.measured.items()
        if not wanted or key in wanted
        for column, numbers in measured.values.items()
        if not np.isnan(numbers[place])
    }
    return DrawnSample(
        LocatedSample(source["unit"], sample),
        source["uri"],
        OUTCOMES[verdicts.outcome[place]],
        None if reason == NONE else group.labels.texts[reason],
        values,
    )


TABLE = pa.schema(
    [
        ("sample_id", pa.string()),
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("values", pa.string()),
    ]
)


def table_of(drawn: list[DrawnSample]) -> pa.Table:
    """A row per sample."""
    rows = [
        {
            "sample_id": one.sample.sample_id,
            "uri": one.uri,
            "start_s": one.sample.start_s,
            "end_s": one.sample.end_s,
            "outcome": str(one.outcome),
            "reason": one.reason,
            "values": said_values(one),
        }
        for one in drawn
    ]
    return pa.Table.from_pylist(rows, TABLE)


def said_values(drawn: DrawnSample) -> str:
    """The values as people read them."""
    return ", ".join(f"{name} {value:.4g}" for name, value in drawn.values.items())
