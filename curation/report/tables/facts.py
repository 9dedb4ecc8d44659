"""Everything known about one source or sample, and why it was kept or not, as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from curation.errors import ConfigError
from curation.ledger import Ledger
from curation.ledger.unit_state import SampleVerdict, SourceVerdict
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, Verdict, describe_rule, passed_by
from curation.records import Outcome, Row, Sample
from curation.report.tables.lookup import Hit, find_one, is_prefix


def facts_of(ledger: Ledger, pipeline: Pipeline, wanted: str) -> dict[str, Any]:
    """A source with all its samples; `wanted` as for `find`.

    Raises:
        ConfigError: nothing, or more than one source, has this name.
    """
    hit = find_one(ledger, pipeline, wanted)
    samples = hit.samples or hit.judged.samples
    return _source(hit) | {"samples": [_sample(pipeline, hit.judged, sample) for sample in samples]}


def sample_facts(ledger: Ledger, pipeline: Pipeline, sample_id: str) -> dict[str, Any]:
    """A sample or a window, by its id or the start of one, and its source.

    Raises:
        ConfigError: nothing, or more than one, has this id.
    """
    hit, found = _one_sample(ledger, pipeline, sample_id)
    return _sample(pipeline, hit.judged, found) | {"source": _source(hit)}


def located_sample(ledger: Ledger, pipeline: Pipeline, sample_id: str) -> tuple[int, Sample]:
    """A sample or a window, by its id or the start of one, and the unit that it is in.

    Raises:
        ConfigError: nothing, or more than one, has this id.
    """
    hit, found = _one_sample(ledger, pipeline, sample_id)
    return hit.unit, found.sample


def _one_sample(ledger: Ledger, pipeline: Pipeline, sample_id: str) -> tuple[Hit, SampleVerdict]:
    hit = find_one(ledger, pipeline, sample_id)
    found = [
        item
        for sample in hit.samples
        for item in (sample, *sample.windows)
        if is_prefix(item.sample.sample_id, sample_id)
    ]
    if not found:
        raise ConfigError(f"{sample_id!r} is a source; `explain` tells all about it")
    if len(found) > 1:
        raise ConfigError(f"{sample_id!r} is the start of more than one id")
    return hit, found[0]


def _source(hit: Hit) -> dict[str, Any]:
    judged = hit.judged
    facts = asdict(judged.source) | {"metadata": dict(judged.source.metadata)}
    verdict = Verdict(Outcome.GONE) if hit.is_gone else judged.verdict
    return facts | _verdict(verdict) | {"error": judged.error}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": str(verdict.outcome),
        "reason": verdict.reason,
        "waits_for": verdict.needs.key if verdict.needs else None,
    }


def _sample(pipeline: Pipeline, source: SourceVerdict, judged: SampleVerdict) -> dict[str, Any]:
    rule = pipeline.branches[source.source.kind].rule
    return {
        **asdict(judged.sample),
        **_verdict(judged.verdict),
        "kept_by": [describe_rule(part) for _, part in passed_by(rule, judged.rows)],
        "steps": {
            step.key: _row(step, judged.rows[step.key])
            for step in pipeline.steps()
            if step.key in judged.rows
        },
        "windows": [_sample(pipeline, source, window) for window in judged.windows],
    }


def _row(step: Step, row: Row) -> dict[str, Any]:
    """What a step measured, without large columns, and why it rejects; or the error."""
    if not row.ok:
        return {"error_type": row.error_type, "error": row.error}
    values = {name: value for name, value in row.values.items() if name not in step.large_columns}
    return values | {"rejected_by": step.stage.reject_reason(row.values)}
