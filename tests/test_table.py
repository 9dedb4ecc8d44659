"""The flat table, which is made by column, against the same table made row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from curation.errors import StorageError
from curation.ingest.metadata import texts_of
from curation.ledger import Ledger
from curation.ledger.schemas import METADATA_COLUMNS, SOURCES, source_record
from curation.ledger.unit_state import SampleVerdict, SourceVerdict
from curation.pipeline import Pipeline
from curation.pipeline.rules import Verdict, describe_rule, passed_by
from curation.records import Outcome, Row
from curation.report.tables.flatfile import write_table
from curation.report.tables.metadata_columns import MetadataColumns
from curation.report.tables.table import FlatTable, flat_table
from curation.splitter import SOURCE_COLUMNS
from one_by_one import scan_verdicts
from random_ledgers import NUM_UNITS, a_pipeline, list_units, random_ledger

OWN = ["level", "sample_id", "parent_id", "start_s", "end_s", "outcome", "reason", "stage", "kept_by"]


def one_by_one(ledger: Ledger, pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """The rows, with what sources carry as it came under the key None."""
    for state, judged in scan_verdicts(ledger, pipeline):
        gone = [SourceVerdict(source, (), Verdict(Outcome.GONE)) for source in state.gone]
        for source in (*judged, *gone):
            for row in rows_of(pipeline, source):
                yield {**row, None: dict(source.source.metadata)}  # type: ignore[dict-item]


def rows_of(pipeline: Pipeline, judged: SourceVerdict) -> Iterator[dict[str, Any]]:
    first = next((row for sample in judged.samples[:1] for row in sample.rows.values()), Row("", {}))
    source = source_record(judged.source) | {name: first.values.get(name) for name in SOURCE_COLUMNS}
    error = {"error_type": judged.verdict.reason if judged.error else None, "error": judged.error}
    yield {**source, **error, "level": "source", **said(judged.verdict)}
    for sample in judged.samples:
        passed = passed_by(pipeline.branches[judged.source.kind].rule, sample.rows)
        kept_by = {"kept_by": ", ".join(describe_rule(part) for _, part in passed) or None}
        yield {**source, **of_sample(sample, "sample", None), **kept_by}
        for window in sample.windows:
            yield {**source, **of_sample(window, "window", sample.sample.sample_id), **kept_by}


def said(verdict: Verdict) -> dict[str, Any]:
    step = verdict.step or verdict.needs
    return {"outcome": verdict.outcome.value, "reason": verdict.reason, "stage": step.name if step else None}


def of_sample(judged: SampleVerdict, level: str, parent_id: str | None) -> dict[str, Any]:
    failed = next((row for row in judged.rows.values() if not row.ok), Row("", {}))
    sample = judged.sample
    return {
        **{name: value for row in judged.rows.values() for name, value in row.values.items()},
        "level": level,
        "sample_id": sample.sample_id,
        "parent_id": parent_id,
        "kind": sample.kind,
        "start_s": sample.start_s,
        "end_s": sample.end_s,
        "status": "ok" if failed.ok else "failed",
        "error_type": failed.error_type,
        "error": failed.error,
        **said(judged.verdict),
    }


def columns_of(pipeline: Pipeline) -> list[str]:
    measured = [
        name for step in pipeline.steps() for name, column in step.stage.columns.items() if not column.large
    ]
    return list(
        dict.fromkeys([*OWN, *(name for name in SOURCES.names if name not in METADATA_COLUMNS), *measured])
    )


def own_names(names: set[str], taken: list[str]) -> dict[str, str]:
    """Name -> column: a prefix as often as it takes, where the table or another name has it already."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name in taken, name)):
        column = name
        while column in taken or column in found.values():
            column = f"carried_{column}"
        found[name] = column
    return found


def converted(values: list[Any]) -> list[Any]:
    """What values of one name become in a column that holds them all."""
    there = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in there):
        return [None if value is None else texts_of(value) for value in values]
    types = {type(value) for value in there}
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]
    if len(types) == 1 and 2**70 not in there:
        return values
    return [None if value is None else str(value) for value in values]


def test_it_equals_the_table_made_row_by_row(tmp_path: Path) -> None:
    pipelines = [a_pipeline(tmp_path), a_pipeline(tmp_path, hdr="reject")]
    levels = set()
    for seed in range(10):
        pipeline = pipelines[seed % 2]
        ledger = random_ledger(pipeline, tmp_path / str(seed), seed)
        if seed % 4 < 2:
            list_units(ledger, 0, 2)
        rows, names = list(one_by_one(ledger, pipeline)), columns_of(pipeline)
        table = flat_table(ledger, pipeline)
        levels |= set(table["level"].to_pylist()) | set(table["outcome"].to_pylist())
        assert table.column_names[: len(names)] == names
        for name in names:
            expected = pa.array([row.get(name) for row in rows], table.schema.field(name).type)
            assert table[name].to_pylist() == expected.to_pylist(), name
        said_of: list[dict[str, Any]] = [row[None] for row in rows]  # type: ignore[index]
        own = own_names({key for said in said_of for key in said}, names)
        carried = [{own[key]: value for key, value in said.items()} for said in said_of]
        assert table.column_names[len(names) :] == sorted({name for row in carried for name in row})
        for name in table.column_names[len(names) :]:
            assert table[name].to_pylist() == converted([row.get(name) for row in carried]), name
    assert levels >= {"source", "sample", "window", "kept", "rejected", "failed", "pending", "gone"}


def test_values_decide_about_the_types_of_metadata_wherever_they_stand(tmp_path: Path) -> None:
    """A name that is a number in one unit and a text in another is text in all parts of the table."""
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 4)
    for unit in range(NUM_UNITS):
        sources = [
            replace(source, metadata={"mixed": (1, "a", True)[unit], "number": (1, 0.5, 2)[unit]})
            for source in ledger.sources(unit)
        ]
        ledger.replace_sources(unit, sources)
    table = flat_table(ledger, pipeline)
    assert table.schema.field("mixed").type == pa.string()
    assert set(table["mixed"].to_pylist()) == {"1", "a", "True"}
    assert table.schema.field("number").type == pa.float64()
    assert set(table["number"].to_pylist()) == {1.0, 0.5, 2.0}


@pytest.mark.parametrize("layout", ["parquet", "csv"])
def test_file_is_written_part_by_part_and_whole_or_not_at_all(tmp_path: Path, layout: Any) -> None:
    pipeline = a_pipeline(tmp_path)
    table = FlatTable(random_ledger(pipeline, tmp_path / "out", 5), pipeline)
    target = tmp_path / f"t.{layout}"

    def broken() -> Iterator[pa.Table]:
        yield from table.parts()
        raise OSError(28, "No space left on device")

    target.write_text("before")
    with pytest.raises(StorageError, match="No space left on device"):
        write_table(table.schema, broken(), str(target), layout)
    assert target.read_text() == "before"
    num_rows = len(list(rows(table)))
    assert write_table(table.schema, table.parts(), str(target), layout) == num_rows
    assert [path.name for path in tmp_path.glob("t.*")] == [target.name]
    written = pq.read_table(target) if layout == "parquet" else pcsv.read_csv(target)
    assert (written.num_rows, written.column_names) == (num_rows, table.schema.names)


def rows(table: FlatTable) -> Iterator[Any]:
    for part in table.parts():
        yield from part.to_pylist()


def test_row_groups_join_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [pa.table({"x": pa.array([number] * 1000)}) for number in range(10)]
    monkeypatch.setattr("curation.report.tables.flatfile.ROW_GROUP_BYTES", 3 * parts[0].nbytes)
    write_table(parts[0].schema, parts, str(tmp_path / "t.parquet"), "parquet")
    footer = pq.read_metadata(tmp_path / "t.parquet")
    assert [footer.row_group(place).num_rows for place in range(footer.num_row_groups)] == [3000] * 3 + [1000]
    assert pq.read_table(tmp_path / "t.parquet").equals(pa.concat_tables(parts))


def test_two_names_of_metadata_never_share_a_column() -> None:
    carried = pa.chunked_array([['{"kind": "mine", "carried_kind": "other"}', None]])
    columns = MetadataColumns(["kind"])
    columns.note(carried)
    found = {name: column.to_pylist() for name, column in columns.columns(carried).items()}
    assert found == {"carried_kind": ["other", None], "carried_carried_kind": ["mine", None]}
    assert [field.name for field in columns.fields()] == sorted(found)
