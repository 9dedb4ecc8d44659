"""One flat table: a row per source and per sample, with every column, outcome, reason and error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.ledger import Ledger
from curation.ledger.absent import Absent, absent_sources
from curation.ledger.columns import KEPT, NONE, OUTCOMES, Measured, Verdicts
from curation.ledger.schemas import METADATA, METADATA_COLUMNS, SOURCES
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, describe_rule
from curation.records import Outcome, SourceKind
from curation.report.summary.failures import source_errors
from curation.report.tables.metadata_columns import MetadataColumns
from curation.splitter import SOURCE_COLUMNS

"""The column of the sources that becomes columns of their own."""
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
_OF_SAMPLES = frozenset([*_OWN.names, "kind", "status", "error_type", "error"])
"""Columns that say the same of all samples, whatever a step calls its own."""
_OUTCOME_NAMES = np.array([outcome.value for outcome in OUTCOMES])
_PLACES = ("unit", "is_gone", "source", "sample", "leaf")
"""What the rows are in order of."""

Columns = dict[str, Any]
"""Name -> column, all of one length."""


def flat_table(ledger: Ledger, pipeline: Pipeline) -> pa.Table:
    """The whole table in memory; see `FlatTable`."""
    table = FlatTable(ledger, pipeline)
    return pa.concat_tables([table.schema.empty_table(), *table.parts()])


class FlatTable:
    """The table, in parts; `level` is source, sample or window. Pixels and codes are left out.

    What sources carry stands in columns of its own names, at the end; with `carried_` before names that
    are taken. `kept_by` names the branch of each `any_of` that let a sample through. A source that is no
    longer in the inputs has one row, of the outcome `gone`.

    Which columns the sources' metadata needs, and of which types, is seen by reading that one column of
    all sources first; the parts are then made from a few units at a time.

    Attributes:
        schema: Of every part.
    """

    def __init__(self, ledger: Ledger, pipeline: Pipeline) -> None:
        self._ledger, self._pipeline = ledger, pipeline
        own = _own_schema(pipeline)
        self._metadata = MetadataColumns(own.names)
        self._absent = absent_sources(ledger)
        _note_metadata(ledger, self._metadata, self._absent)
        self.schema = pa.schema([*own, *self._metadata.fields()])

    def parts(self) -> Iterator[pa.Table]:
        """The rows, a few units at a time: each source, then its samples, each with its windows."""
        steps = self._pipeline.steps()
        for group in verdict_groups(
            self._ledger,
            self._pipeline,
            source_columns=SOURCES.names,
            columns={step.key: ("error", *_table_columns(step)) for step in steps},
            absent=self._absent,
        ):
            yield _Part(group, self.schema, self._metadata).table()


def _own_schema(pipeline: Pipeline) -> pa.Schema:
    """The columns apart from metadata; of steps with one of the same name, the first has its type."""
    fields = {
        field.name: field.with_nullable(True)
        for field in (*_OWN, *SOURCES)
        if field.name not in METADATA_COLUMNS
    }
    for step in pipeline.steps():
        for name in _table_columns(step):
            fields.setdefault(name, pa.field(name, step.stage.columns[name].type))
    return pa.schema(list(fields.values()))


def _table_columns(step: Step) -> list[str]:
    return [name for name, column in step.stage.columns.items() if not column.large]


def _note_metadata(ledger: Ledger, metadata: MetadataColumns, absent: Absent) -> None:
    """Note what the sources carry that the table shows: all but replaced versions of files."""
    replaced = pa.array(sorted(absent.replaced), pa.string())
    for _, sources in ledger.scan_sources(["source_id", METADATA], ledger.units()):
        if sources[METADATA].null_count == sources.num_rows:
            continue
        shown = pc.invert(pc.is_in(sources["source_id"], value_set=replaced))
        metadata.note(sources[METADATA].filter(shown))


class _Part:
    """The rows of a group of units."""

    def __init__(self, group: VerdictGroup, schema: pa.Schema, metadata: MetadataColumns) -> None:
        self._group, self._schema = group, schema
        self._sources = self._source_columns(group.sources, metadata)
        self._gone = self._source_columns(group.gone, metadata)
        self._units = group.sources["unit"].to_numpy()

    def _source_columns(self, sources: pa.Table, metadata: MetadataColumns) -> Columns:
        found = {name: sources[name] for name in SOURCES.names if name not in METADATA_COLUMNS}
        return found | metadata.columns(sources[METADATA])

    def table(self) -> pa.Table:
        """All rows, in order."""
        blocks = [self._of_sources(), self._of_gone()]
        for kind in self._group.samples:
            blocks.append(self._of_samples(kind))
            if self._group.leaves[kind].is_window.any():
                blocks.append(self._of_windows(kind))
        table = pa.concat_tables([self._block(columns) for columns, _ in blocks])
        keys = [np.concatenate([places[name] for _, places in blocks]) for name in _PLACES]
        return table.take(pa.array(np.lexsort(keys[::-1])))

    def _block(self, columns: Columns) -> pa.Table:
        """Columns as a table of the schema; null what there is not."""
        num_rows = len(columns["source_id"])
        return pa.table(
            [
                _cast(columns[field.name], field.type)
                if field.name in columns
                else pa.nulls(num_rows, field.type)
                for field in self._schema
            ],
            schema=self._schema,
        )

    def _places(self, source: NDArray[np.int64], **places: NDArray[np.int64]) -> dict[str, Any]:
        """What rows of these sources are sorted by; a source before its samples before their windows."""
        first = np.full(len(source), -1)
        return {
            "unit": self._units[source],
            "is_gone": np.zeros(len(source)),
            "source": source,
            "sample": first,
            "leaf": first,
            **places,
        }

    def _of_sources(self) -> tuple[Columns, dict[str, Any]]:
        group = self._group
        verdicts = _verdict_columns(group, group.of_sources)
        errors = source_errors(group)
        error_types = pc.if_else(errors.is_valid(), verdicts["reason"], pa.scalar(None, pa.string()))
        columns = {
            **self._sources,
            **self._of_whole(),
            **verdicts,
            "error_type": error_types,
            "error": errors,
        }
        columns["level"] = pa.repeat("source", len(errors))
        return columns, self._places(np.arange(len(errors)))

    def _of_whole(self) -> Columns:
        """What splitters found out about sources as a whole, which the row of every clip repeats."""
        found: Columns = {}
        for samples in self._group.samples.values():
            splitter = samples.branch.splitter
            if splitter is None or not len(samples.source):
                continue
            sources, firsts = np.unique(samples.source, return_index=True)
            rows = self._group.rows_of(splitter.key, samples.sample_id.take(pa.array(firsts)))
            of_source = pc.index_in(pa.array(np.arange(len(self._units))), value_set=pa.array(sources))
            for name in set(SOURCE_COLUMNS).intersection(rows.column_names, self._schema.names):
                column = rows[name].take(of_source)
                found[name] = pc.coalesce(found[name], column) if name in found else column
        return found

    def _of_gone(self) -> tuple[Columns, dict[str, Any]]:
        number = self._group.gone.num_rows
        nothing = pa.nulls(number, pa.string())
        columns = {
            **self._gone,
            "error_type": nothing,
            "error": nothing,
            "level": pa.repeat("source", number),
            "outcome": pa.repeat(Outcome.GONE.value, number),
        }
        first = np.full(number, -1)
        return columns, {
            "unit": self._group.gone["unit"].to_numpy(),
            "is_gone": np.ones(number),
            "source": np.arange(number),
            "sample": first,
            "leaf": first,
        }

    def _of_samples(self, kind: SourceKind) -> tuple[Columns, dict[str, Any]]:
        group, samples, leaves = self._group, self._group.samples[kind], self._group.leaves[kind]
        number = samples.evaluator.number
        whole = np.full(number, -1)
        whole[leaves.sample[~leaves.is_window]] = np.flatnonzero(~leaves.is_window)
        whole[samples.verdicts.outcome != KEPT] = -1
        finished = {key: measured.take(whole) for key, measured in leaves.evaluator.measured.items()}
        columns = self._measured(
            samples.source, samples.sample_id, {**samples.evaluator.measured, **finished}
        )
        columns |= {
            **_verdict_columns(group, group.of_samples(kind)),
            "level": pa.repeat("sample", number),
            "sample_id": samples.sample_id,
            "kind": pa.repeat(_sample_kind(samples.branch.splitter), number),
            "start_s": pa.array(samples.start_s),
            "end_s": pa.array(samples.end_s),
            "kept_by": self._kept_by(kind),
        }
        return columns, self._places(samples.source, sample=np.arange(number))

    def _of_windows(self, kind: SourceKind) -> tuple[Columns, dict[str, Any]]:
        group, samples, leaves = self._group, self._group.samples[kind], self._group.leaves[kind]
        windows = np.flatnonzero(leaves.is_window)
        sample, source = leaves.sample[windows], leaves.source[windows]
        sample_id = leaves.sample_id.take(pa.array(windows))
        measured = {key: rows.take(windows) for key, rows in leaves.evaluator.measured.items()}
        columns = self._measured(source, sample_id, measured)
        columns |= {
            **_verdict_columns(group, leaves.verdicts.take(windows)),
            "level": pa.repeat("window", len(windows)),
            "sample_id": sample_id,
            "parent_id": samples.sample_id.take(pa.array(sample)),
            "kind": pa.repeat(_sample_kind(samples.branch.splitter), len(windows)),
            "start_s": pa.array(leaves.start_s[windows]),
            "end_s": pa.array(leaves.end_s[windows]),
            "kept_by": self._kept_by(kind).take(pa.array(sample)),
        }
        return columns, self._places(source, sample=sample, leaf=windows)

    def _measured(
        self, source: NDArray[np.int64], sample_id: pa.Array, measured: Mapping[str, Measured]
    ) -> Columns:
        """What is known of samples: of their sources, then what each step measured, the last one counts."""
        found = {name: column.take(pa.array(source)) for name, column in self._sources.items()}
        error = {name: pa.nulls(len(source), pa.string()) for name in ("error_type", "error")}
        steps = [step for step in self._group.steps if step.key in measured]
        for step in steps:
            rows, ok = self._group.rows_of(step.key, sample_id), pa.array(measured[step.key].ok)
            for name in _table_columns(step):
                if name in _OF_SAMPLES:
                    continue
                column = _cast(rows[name], self._schema.field(name).type)
                other = found.get(name, pa.scalar(None, column.type))
                found[name] = pc.if_else(ok, column, other)
            failed = pa.array(measured[step.key].present & ~measured[step.key].ok)
            failed = pc.and_(failed, pc.is_null(error["error_type"]))
            error = {name: pc.if_else(failed, rows[name], column) for name, column in error.items()}
        status = pc.if_else(pc.is_null(error["error_type"]), "ok", "failed")
        return found | error | {"status": status}

    def _kept_by(self, kind: SourceKind) -> pa.Array:
        """For each sample the branches of `any_of`s that let it through, in words."""
        samples = self._group.samples[kind]
        codes = np.zeros(samples.evaluator.number, np.int64)
        words: list[tuple[str, ...]] = [()]
        for _, part, passed in samples.evaluator.passed_by(samples.branch.rule):
            found, codes = np.unique(2 * codes + passed, return_inverse=True)
            words = [words[code // 2] + (describe_rule(part),) * int(code % 2) for code in found]
        texts = pa.array([", ".join(parts) or None for parts in words], pa.string())
        return texts.take(pa.array(codes))


def _sample_kind(splitter: Step | None) -> str:
    return "image" if splitter is None else "clip"


def _verdict_columns(group: VerdictGroup, verdicts: Verdicts) -> Columns:
    steps = np.where(verdicts.step == NONE, verdicts.needs, verdicts.step)
    names = pa.array([*(step.name for step in group.steps), None], pa.string())
    return {
        "outcome": pa.array(_OUTCOME_NAMES[verdicts.outcome]),
        "reason": group.labels.column(verdicts.reason).cast(pa.string()),
        "stage": names.take(pa.array(steps.astype(np.int64) % len(names))),
    }


def _cast(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return column if column.type == kind else column.cast(kind)
