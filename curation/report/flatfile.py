"""The flat table as a file of its own: Parquet, or CSV for spreadsheets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, cast, get_args

import pyarrow as pa
from pyarrow import csv

from curation.errors import ConfigError
from curation.storage import parquet

Format = Literal["parquet", "csv"]
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


def write_table(table: pa.Table, target: str, layout: Format) -> None:
    """Write the table.

    CSV has no lists and no bytes: lists and structs become JSON, bytes hexadecimal digits. An absent value is
    an empty cell, an empty text is "".

    Raises:
        ConfigError: the file can't be written.
    """
    if layout == "csv":
        sink = pa.BufferOutputStream()
        csv.write_csv(_plain(table), sink)
        data = sink.getvalue().to_pybytes()
    else:
        data = parquet.to_bytes(table)
    try:
        Path(target).write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error


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
