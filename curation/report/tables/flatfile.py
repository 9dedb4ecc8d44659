"""The flat table as a file of its own: Parquet, or CSV for spreadsheets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Literal, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from curation.errors import ConfigError
from curation.storage import storage_of

Format = Literal["parquet", "csv"]
ROW_GROUP_BYTES = 64_000_000
"""A row group of Parquet is closed at about this size in memory."""
_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)


def format_of(target: str) -> Format:
    """The format that a file's name asks for.

    Raises:
        ConfigError: none that can be written.
    """
    suffix = Path(target).suffix.lower().removeprefix(".")
    if suffix not in get_args(Format):
        raise ConfigError(f"{target}: a table is written as .parquet or .csv, and the name ends in neither")
    return cast(Format, suffix)


def write_table(schema: pa.Schema, parts: Iterable[pa.Table], target: str, layout: Format) -> int:
    """Write a table whose parts come one after the other, whole or not at all; how many rows it has.

    CSV has no lists and no bytes: lists and structs become JSON, bytes hexadecimal digits. An absent value is
    an empty cell, an empty text is "".

    Raises:
        ConfigError: `target` names no file.
        StorageError: it can't be written.
    """
    storage, key = storage_of(target)
    with storage.creating(key) as sink:
        return (_write_csv if layout == "csv" else _write_parquet)(schema, parts, sink)


def _write_parquet(schema: pa.Schema, parts: Iterable[pa.Table], sink: IO[bytes]) -> int:
    num_rows = 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for group in _row_groups(parts):
            writer.write_table(group, row_group_size=group.num_rows)
            num_rows += group.num_rows
    return num_rows


def _row_groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Parts joined until they are worth a row group."""
    held: list[pa.Table] = []
    for part in parts:
        held.append(part)
        if sum(part.nbytes for part in held) >= ROW_GROUP_BYTES:
            yield pa.concat_tables(held)
            held = []
    if any(part.num_rows for part in held):
        yield pa.concat_tables(held)


def _write_csv(schema: pa.Schema, parts: Iterable[pa.Table], sink: IO[bytes]) -> int:
    num_rows = 0
    with csv.CSVWriter(sink, _plain(schema.empty_table()).schema) as writer:
        for part in parts:
            writer.write_table(_plain(part))
            num_rows += part.num_rows
    return num_rows


def _plain(table: pa.Table) -> pa.Table:
    columns = {
        name: _plain_column(column) for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(columns)


def _plain_column(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    kind = column.type
    if pa.types.is_nested(kind):
        return pa.array([_as_json(value) for value in column.to_pylist()], pa.string())
    if any(is_bytes(kind) for is_bytes in _BYTES):
        return pa.array([None if value is None else value.hex() for value in column.to_pylist()], pa.string())
    if pa.types.is_dictionary(kind):
        return _plain_column(column.cast(kind.value_type))
    return column.cast(pa.string()) if pa.types.is_string_view(kind) else column


def _as_json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, default=_as_text)


def _as_text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
