"""One flat table: a row per source and per sample, with every column, outcome, reason and error."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from curation.ledger import Ledger
from curation.ledger.schemas import SOURCES, source_record
from curation.ledger.unit_state import SampleVerdict, SourceVerdict, scan_verdicts
from curation.pipeline import Pipeline
from curation.pipeline.rules import Rule, Verdict, describe_rule, passed_by
from curation.records import Outcome, Row
from curation.report.metadata_columns import MetadataColumns
from curation.splitter import SOURCE_COLUMNS

_OWN = pa.schema(
    [
        ("level", pa.string()),
        ("sample_id", pa.string()),
        ("parent_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("stage", pa.string()),
        ("kept_by", pa.string()),
    ]
)


def flat_table(ledger: Ledger, pipeline: Pipeline, source_ids: frozenset[str] | None = None) -> pa.Table:
    """The table; `level` is source, sample or window. Pixels and codes are left out.

    What sources carry stands in columns of its own names, at the end; with `carried_` before names that
    are taken. `kept_by` names the branch of each `any_of` that let a sample through.

    A source that is no longer in the inputs has one row, of the outcome `gone`.

    `source_ids` limits it to these sources.
    """
    schema = _schema(pipeline)
    records: list[dict[str, Any]] = []
    metadata = MetadataColumns(schema.names)
    for state, judged in scan_verdicts(ledger, pipeline):
        for source in (*judged, *(SourceVerdict(gone, (), Verdict(Outcome.GONE)) for gone in state.gone)):
            if source_ids is None or source.source.source_id in source_ids:
                branch = pipeline.branches.get(source.source.kind)
                rows = _records(source, branch.rule if branch else None)
                metadata.add(source.source, len(rows))
                records += rows
    return metadata.append_to(pa.Table.from_pylist(records, schema=schema))


def _schema(pipeline: Pipeline) -> pa.Schema:
    fields = {field.name: field.with_nullable(True) for field in (*_OWN, *SOURCES) if field.name != "carried"}
    for step in pipeline.steps():
        for name, column in step.stage.columns.items():
            if not column.large:
                fields.setdefault(name, pa.field(name, column.type))
    return pa.schema(list(fields.values()))


def _records(judged: SourceVerdict, rule: Rule | None) -> list[dict[str, Any]]:
    source = source_record(judged.source) | _of_whole(judged)
    error = {"error_type": judged.verdict.reason if judged.error else None, "error": judged.error}
    records = [{**source, **error, "level": "source", **_verdict(judged.verdict)}]
    for sample in judged.samples:
        parts = [describe_rule(part) for _, part in passed_by(rule, sample.rows)] if rule else []
        kept_by = {"kept_by": ", ".join(parts) or None}
        records.append({**source, **_sample(sample, "sample", None), **kept_by})
        for window in sample.windows:
            records.append({**source, **_sample(window, "window", sample.sample.sample_id), **kept_by})
    return records


def _of_whole(judged: SourceVerdict) -> dict[str, Any]:
    """What the splitter found out about the source as a whole, which the row of every clip repeats."""
    first = next((row for sample in judged.samples[:1] for row in sample.rows.values()), Row("", {}))
    return {name: first.values.get(name) for name in SOURCE_COLUMNS}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    step = verdict.step or verdict.needs
    return {"outcome": verdict.outcome.value, "reason": verdict.reason, "stage": step.name if step else None}


def _sample(judged: SampleVerdict, level: str, parent_id: str | None) -> dict[str, Any]:
    failed = next((row for row in judged.rows.values() if not row.ok), Row("", {}))
    values = {name: value for row in judged.rows.values() for name, value in row.values.items()}
    sample = judged.sample
    return {
        **values,
        "level": level,
        "sample_id": sample.sample_id,
        "parent_id": parent_id,
        "kind": sample.kind,
        "start_s": sample.start_s,
        "end_s": sample.end_s,
        "status": "ok" if failed.ok else "failed",
        "error_type": failed.error_type,
        "error": failed.error,
        **_verdict(judged.verdict),
    }
