"""Arrow schemas of the ledger, and records as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import ContractError
from curation.errors.visible import spelled
from curation.ingest.metadata import metadata_json, spelled_value
from curation.records import Row, Source
from curation.stage import Column

_SMALL = 2**31
"""Every column of numbers takes what is smaller."""
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
        # The metadata and their etag, under the name that ledgers have had from the start.
        ("carried", pa.string()),
        ("carried_etag", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]
)
METADATA = "carried"
"""The column of what came along with a source, as JSON: the name is that of the first ledgers."""
METADATA_COLUMNS = (METADATA, "carried_etag")
"""That, and the etag of the files that it came from."""

_KEY = [pa.field("sample_id", pa.string(), nullable=False)]
_STATUS = [
    pa.field("status", pa.string(), nullable=False),
    pa.field("error_type", pa.string()),
    pa.field("error", pa.string()),
    pa.field("seconds", pa.float64(), nullable=False),
]
EVERY_STAGE = pa.schema([*_KEY, *_STATUS])
"""The columns that the rows of every stage have."""


def stage_schema(columns: Mapping[str, Column]) -> pa.Schema:
    """The ledger schema of a stage with these columns."""
    own = [pa.field(name, column.type) for name, column in columns.items() if name != "sample_id"]
    return pa.schema([*_KEY, *own, *_STATUS])


def rows_to_table(rows: Iterable[Row], columns: Mapping[str, Column]) -> pa.Table:
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


def merge_rows(present: pa.Table | None, new: pa.Table, replaces: pa.Array) -> pa.Table:
    """The rows that were there and the new ones, sorted by sample id; one that was there stays.

    Args:
        present: May have other columns than `new`, which decides.
        new: Of `stage_schema`.
        replaces: Sample ids whose rows do not stay.
    """
    if present is None:
        return new.sort_by("sample_id")
    stays = present.filter(pc.invert(pc.is_in(present["sample_id"], value_set=replaces)))
    columns = [
        stays[field.name].cast(field.type)
        if field.name in stays.column_names
        else pa.nulls(stays.num_rows, field.type)
        for field in new.schema
    ]
    stays = pa.table(columns, schema=new.schema)
    known = stays["sample_id"].combine_chunks()
    added = new.filter(pc.invert(pc.is_in(new["sample_id"], value_set=known)))
    return pa.concat_tables([stays, added]).sort_by("sample_id").combine_chunks()


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


def source_record(source: Source) -> dict[str, Any]:
    """The columns of one source."""
    record = {field.name: getattr(source, field.name) for field in fields(source)}
    rate = record.pop("frame_rate")
    record["frame_rate_num"] = rate.numerator if rate else None
    record["frame_rate_den"] = rate.denominator if rate else None
    del record["metadata"]
    record["carried"] = metadata_json(source.metadata)
    record["carried_etag"] = record.pop("metadata_etag")
    record["status"] = "ok" if source.ok else "failed"
    return record


def check_source(source: Source) -> None:
    """Make sure that the ledger has room for a source's numbers, which a header may have made up.

    Raises:
        pyarrow.ArrowInvalid, OverflowError: it has none.
    """
    rate = source.frame_rate
    numbers = (
        *(source.width, source.height, source.rotation, source.num_frames, source.stream_index),
        *(source.num_discontinuities, rate and rate.numerator, rate and rate.denominator),
    )
    if any(number is not None and not -_SMALL < number < _SMALL for number in numbers):
        sources_to_table([source])


def sources_to_table(sources: Sequence[Source]) -> pa.Table:
    """One row per source, in the given order."""
    records = [_spelled_record(source_record(source)) for source in sources]
    return pa.Table.from_pylist(records, schema=SOURCES)


def _spelled_record(record: dict[str, Any]) -> dict[str, Any]:
    return {key: spelled_value(value) for key, value in record.items()}


def table_to_sources(table: pa.Table) -> list[Source]:
    """Inverse of `sources_to_table`."""
    return [_source(record) for record in table.to_pylist()]


def _source(record: dict[str, Any]) -> Source:
    numerator, denominator = record.pop("frame_rate_num"), record.pop("frame_rate_den")
    del record["status"]
    metadata = json.loads(record.pop("carried", None) or "{}")
    etag = record.pop("carried_etag", None)  # ledgers of older versions have none
    rate = Fraction(numerator, denominator) if numerator else None
    return Source(frame_rate=rate, metadata=metadata, metadata_etag=etag, **record)
