"""Everything known about the samples that a report shows, as people read it.

Only the units of these samples are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from curation.ledger import Ledger
from curation.ledger.unit_state import SampleVerdict, SourceVerdict, load_unit, source_verdict
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, Verdict, describe_rule, passed_by
from curation.records import Row, Sample, Source
from curation.report.gallery.samples import LocatedSample, units_of
from curation.report.tables.explain import shown, source_facts

_CAPTION = "caption"
_THUMBNAIL = "thumbnail"
"""Column of a step that makes small pictures."""
_IDS = frozenset({"sample_id", "source_id", "parent_id", "start_s", "end_s"})
"""Columns that say which sample it is; they are shown once."""


@dataclass(frozen=True)
class StepFacts:
    """What a step measured of a sample.

    Attributes:
        key: The step's key.
        values: Column -> value, as text.
        rejects: Why the step rejects the sample; None where it does not.
        error: Why nothing was measured.
        models: The models behind the numbers, with their revisions.
    """

    key: str
    values: dict[str, str]
    rejects: str | None
    error: str | None
    models: list[str]


@dataclass(frozen=True)
class KnownSample:
    """A sample with all that is known about it.

    Attributes:
        source, sample, verdict: As the ledger has them.
        branches: Which part of each `any_of` let it through.
        header: What the header of the source says.
        metadata: What came with the source.
        caption: Its caption, or nothing.
        steps: What was measured, in the order of the steps.
        thumbnail: A JPEG file that a step made of it, if one did.
    """

    source: Source
    sample: Sample
    verdict: Verdict
    branches: list[str]
    header: dict[str, str]
    metadata: dict[str, str]
    caption: str
    steps: list[StepFacts]
    thumbnail: bytes | None

    @property
    def name(self) -> str:
        """The file's name, and the span of a clip."""
        span = self.sample
        when = "" if span.kind == "image" else f" {span.start_s:.2f}-{span.end_s:.2f} s"
        return f"{self.source.uri.rpartition('/')[2]}{when}"

    @property
    def outcome(self) -> str:
        """How it ended."""
        return self.verdict.outcome.value


def known_samples(
    ledger: Ledger, pipeline: Pipeline, samples: Sequence[LocatedSample]
) -> dict[str, KnownSample]:
    """Sample id -> what is known about it, for those samples that the ledger still has."""
    found = {}
    for unit, by_source in sorted(units_of(samples).items()):
        state = load_unit(ledger, pipeline, unit)
        thumbnails = _thumbnails(ledger, pipeline, unit)
        for source in state.sources:
            wanted = {sample.sample_id for sample in by_source.get(source.source_id, ())}
            if wanted:
                judged = source_verdict(pipeline, state, source)
                for sample, leaf in _meant(judged, wanted):
                    sample_id = leaf.sample.sample_id
                    found[sample_id] = _known(pipeline, judged, sample, leaf, thumbnails.get(sample_id))
    return found


def _meant(judged: SourceVerdict, wanted: Collection[str]) -> Iterator[tuple[SampleVerdict, SampleVerdict]]:
    """Each wanted sample twice, or a wanted window behind the sample that it is part of."""
    for sample in judged.samples:
        for one in (sample, *sample.windows):
            if one.sample.sample_id in wanted:
                yield sample, one


def _thumbnails(ledger: Ledger, pipeline: Pipeline, unit: int) -> dict[str, bytes]:
    """Sample id -> a small picture of it, where a step makes some."""
    found: dict[str, bytes] = {}
    for step in pipeline.steps():
        if _THUMBNAIL in step.stage.columns:
            rows = ledger.columns(step.name, step.fingerprint, unit, [_THUMBNAIL])
            if rows is not None:
                columns = (rows[name].to_pylist() for name in ("sample_id", _THUMBNAIL))
                found.update(zip(*columns, strict=True))
    return found


def _known(
    pipeline: Pipeline,
    judged: SourceVerdict,
    sample: SampleVerdict,
    leaf: SampleVerdict,
    thumbnail: bytes | None,
) -> KnownSample:
    source, rows = judged.source, {**sample.rows, **leaf.rows}
    steps = {step.key: step for step in pipeline.steps() if step.key in rows}
    captions = (str(row.values[_CAPTION]) for row in rows.values() if row.ok and row.values.get(_CAPTION))
    let_through = passed_by(pipeline.branches[source.kind].rule, sample.rows)
    return KnownSample(
        source=source,
        sample=leaf.sample,
        verdict=leaf.verdict,
        branches=[f"{describe_rule(part)}, of {describe_rule(rule)}" for rule, part in let_through],
        header=source_facts(source),
        metadata={name: shown(value) for name, value in sorted(source.metadata.items())},
        caption=next(captions, ""),
        steps=[_step_facts(pipeline, step, rows[key]) for key, step in steps.items()],
        thumbnail=thumbnail,
    )


def _step_facts(pipeline: Pipeline, step: Step, row: Row) -> StepFacts:
    models = [f"{model.name} {model.revision[:12]}" for model in pipeline.models if model.step == step.key]
    if not row.ok:
        return StepFacts(step.key, {}, None, f"{row.error_type}: {row.error}", models)
    left_out = {*step.large_columns, *_IDS, _CAPTION}
    values = {
        name: shown(value) for name, value in row.values.items() if name not in left_out and value is not None
    }
    return StepFacts(step.key, values, step.stage.reject_reason(row.values), None, models)
