"""Arrow schemas of the ledger, and rows to and from Parquet bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from fractions import Fraction
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.errors import ContractError, LedgerError
from curation.records import Carried, Row, Source

SOURCES = pa.schema(
    [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frame_rate_num", pa.int64()),
        ("frame_rate_den", pa.int64()),
        ("duration_s", pa.float64()),
        ("num_frames", pa.int64()),
        ("codec", pa.string()),
        ("rotation", pa.int32()),
        ("mirrored", pa.bool_()),
        ("interlaced", pa.bool_()),
        ("stream_index", pa.int32()),
        ("pixel_format", pa.string()),
        ("color_transfer", pa.string()),
        ("sample_aspect_ratio", pa.string()),
        ("num_discontinuities", pa.int32()),
        ("content_hash", pa.string()),
        ("carried", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]
)

_KEY = [pa.field("sample_id", pa.string(), nullable=False)]
_STATUS = [
    pa.field("status", pa.string(), nullable=False),
    pa.field("error_type", pa.string()),
    pa.field("error", pa.string()),
    pa.field("seconds", pa.float64(), nullable=False),
]


def stage_schema(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """The ledger schema of a stage with these columns."""
    own = [pa.field(name, kind) for name, kind in columns.items() if name != "sample_id"]
    return pa.schema([*_KEY, *own, *_STATUS])


def to_bytes(table: pa.Table) -> bytes:
    """Parquet; the same table gives the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def batches_to_bytes(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> bytes:
    """Parquet, written batch by batch, so that one batch is all that is held beside the bytes."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def schema_of(file: IO[bytes], name: str) -> pa.Schema:
    """The schema of a Parquet file with its metadata; no row is read.

    Raises:
        LedgerError: `name` is not a Parquet object.
    """
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise LedgerError(f"{name} is damaged: {error}") from error


def from_bytes(data: bytes, name: str) -> pa.Table:
    """The table in a Parquet object.

    Raises:
        LedgerError: `name` is not a Parquet object.
    """
    return read_columns(pa.BufferReader(data), name)


def read_columns(
    file: IO[bytes] | pa.NativeFile,
    name: str,
    columns: Collection[str] | None = None,
    without: Collection[str] = (),
) -> pa.Table:
    """The table in an open Parquet object: all columns, or those in `columns`, but not those in `without`.

    Only their bytes are read; a column that the object lacks is left out.

    Raises:
        LedgerError: `name` is not a Parquet object.
    """
    try:
        # On this thread: unit files are small, and a process that ends while Arrow's readers are still
        # about is aborted by the C++ runtime now and then.
        parquet = pq.ParquetFile(file, pre_buffer=False)
        return parquet.read(wanted_columns(parquet.schema_arrow, columns, without), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise LedgerError(f"{name} is damaged: {error}") from error


def wanted_columns(
    schema: pa.Schema, columns: Collection[str] | None, without: Collection[str] = ()
) -> list[str]:
    """The columns of a schema that are asked for: all, or those in `columns`, but not those in `without`."""
    return [name for name in schema.names if (columns is None or name in columns) and name not in without]


def spelled(text: str) -> str:
    r"""`text` as it can be stored: half of a surrogate pair, which is no character, stands as \udc80."""
    return text.encode("utf-8", "backslashreplace").decode()


def rows_to_table(rows: Iterable[Row], columns: Mapping[str, pa.DataType]) -> pa.Table:
    """Rows of one stage, sorted by sample id."""
    schema = stage_schema(columns)
    records = [
        {
            **row.values,
            "sample_id": row.sample_id,
            "status": "ok" if row.ok else "failed",
            "error_type": row.error_type,
            "error": row.error and spelled(row.error),
            "seconds": row.seconds,
        }
        for row in sorted(rows, key=lambda row: row.sample_id)
    ]
    try:
        return pa.Table.from_pylist(records, schema=schema)
    except (pa.ArrowException, OverflowError) as error:
        raise ContractError(f"values do not fit the declared columns: {error}") from error


def table_to_rows(table: pa.Table) -> list[Row]:
    """Inverse of `rows_to_table`; columns that were not read are absent from `values`."""
    rows = []
    for record in table.to_pylist():
        status = record.pop("status")
        error_type, error = record.pop("error_type"), record.pop("error")
        sample_id, seconds = record.pop("sample_id"), record.pop("seconds")
        values = record if status == "ok" else {}
        rows.append(Row(sample_id, values, error_type, error, seconds))
    return rows


def carried_json(carried: Mapping[str, Carried]) -> str | None:
    """What came with a source as JSON; null where that is nothing."""
    # Spelled out before it becomes JSON, or reading it would bring the halves of surrogates back.
    kept = {spelled(name): _spelled_value(value) for name, value in carried.items()}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False) if kept else None


def source_record(source: Source) -> dict[str, Any]:
    """The columns of one source."""
    record = {field.name: getattr(source, field.name) for field in fields(source)}
    rate = record.pop("frame_rate")
    record["frame_rate_num"] = rate.numerator if rate else None
    record["frame_rate_den"] = rate.denominator if rate else None
    record["carried"] = carried_json(source.carried)
    record["status"] = "ok" if source.ok else "failed"
    return record


def sources_to_table(sources: Sequence[Source]) -> pa.Table:
    """One row per source, in the given order."""
    records = [_spelled_record(source_record(source)) for source in sources]
    return pa.Table.from_pylist(records, schema=SOURCES)


def _spelled_record(record: dict[str, Any]) -> dict[str, Any]:
    return {key: _spelled_value(value) for key, value in record.items()}


def _spelled_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_spelled_value(item) for item in value]
    return spelled(value) if isinstance(value, str) else value


def table_to_sources(table: pa.Table) -> list[Source]:
    """Inverse of `sources_to_table`."""
    return [_source(record) for record in table.to_pylist()]


def _source(record: dict[str, Any]) -> Source:
    numerator, denominator = record.pop("frame_rate_num"), record.pop("frame_rate_den")
    del record["status"]
    carried = json.loads(record.pop("carried", None) or "{}")
    rate = Fraction(numerator, denominator) if numerator else None
    return Source(frame_rate=rate, carried=carried, **record)
