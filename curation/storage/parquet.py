"""Tables as Parquet objects: to bytes, and back by the columns that are wanted."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from curation.errors import LedgerError


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
        opened = pq.ParquetFile(file, pre_buffer=False)
        return opened.read(wanted_columns(opened.schema_arrow, columns, without), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise LedgerError(f"{name} is damaged: {error}") from error


def wanted_columns(
    schema: pa.Schema, columns: Collection[str] | None, without: Collection[str] = ()
) -> list[str]:
    """The columns of a schema that are asked for: all, or those in `columns`, but not those in `without`."""
    return [name for name in schema.names if (columns is None or name in columns) and name not in without]
