"""Tables as Parquet objects: to bytes, and back by the columns that are wanted.

Every page and the footer carry a checksum, so that what is read is what was written. Objects that older
versions wrote have none, and are read as they are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from curation.errors import DamagedFileError
from curation.storage.footer import SEAL, read_footer, sealed


def to_bytes(table: pa.Table) -> bytes:
    """Parquet; the same table gives the same bytes."""
    sink = io.BytesIO()
    with _writer(sink, table.schema) as writer:
        writer.write_table(table)
    return sealed(sink.getvalue())


def batches_to_bytes(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> bytes:
    """Parquet, written batch by batch, so that one batch is all that is held beside the bytes."""
    sink = io.BytesIO()
    with _writer(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sealed(sink.getvalue())


def row_groups_to_bytes(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Parquet with a row group for each table; none of them is empty."""
    sink = io.BytesIO()
    with _writer(sink, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=table.num_rows)
    return sealed(sink.getvalue())


def _writer(sink: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    metadata = {**(schema.metadata or {}), SEAL: b"1"}
    return pq.ParquetWriter(
        sink, schema.with_metadata(metadata), compression="zstd", write_page_checksum=True
    )


def schema_of(file: IO[bytes], name: str) -> pa.Schema:
    """The schema of a Parquet file with its metadata; no row is read.

    Raises:
        DamagedFileError: `name` is not what was written.
    """
    return arrow_schema(file, read_footer(file, name), name)


def arrow_schema(file: IO[bytes], footer: pq.FileMetaData, name: str) -> pa.Schema:
    """The schema of an open file of which the footer is known.

    A footer and its own `schema` hold each other: megabytes that stay until Python looks for such.

    Raises:
        DamagedFileError: `name` is not what was written.
    """
    with blaming(name):
        return open_at(file, footer).schema_arrow


def from_bytes(data: bytes, name: str) -> pa.Table:
    """The table in a Parquet object.

    Raises:
        DamagedFileError: `name` is not what was written.
    """
    return read_columns(pa.BufferReader(data), name)


def batches_from_bytes(
    data: bytes, name: str, check: Callable[[pa.Schema], None]
) -> Iterator[pa.RecordBatch]:
    """The rows in a Parquet object, batch by batch. `check` is called with its schema before any is read.

    Raises:
        DamagedFileError: `name` is not what was written.
    """
    file = pa.BufferReader(data)
    footer = read_footer(file, name)
    with blaming(name):
        opened = open_at(file, footer)
        check(opened.schema_arrow)
        batches = opened.iter_batches(use_threads=False)
    while True:
        with blaming(name):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def read_columns(
    file: IO[bytes] | pa.NativeFile,
    name: str,
    columns: Collection[str] | None = None,
    without: Collection[str] = (),
    *,
    check: Callable[[pa.Schema], None] | None = None,
) -> pa.Table:
    """The table in an open Parquet object: all columns, or those in `columns`, but not those in `without`.

    Only their bytes are read; a column that the object lacks is left out. `check` is called with the schema
    of the whole object before any row is read.

    Raises:
        DamagedFileError: `name` is not what was written.
    """
    footer = read_footer(file, name)
    with blaming(name):
        opened = open_at(file, footer)
        if check is not None:
            check(opened.schema_arrow)
        # On this thread: unit files are small, and a process that ends while Arrow's readers are still
        # about is aborted by the C++ runtime now and then.
        table = opened.read(wanted_columns(opened.schema_arrow, columns, without), use_threads=False)
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != SEAL}
    return table.replace_schema_metadata(metadata or None)


def open_at(file: IO[bytes] | pa.NativeFile, footer: pq.FileMetaData) -> pq.ParquetFile:
    """An open file of which the footer is known; what is read of it is held against its checksums."""
    return pq.ParquetFile(file, metadata=footer, pre_buffer=False, page_checksum_verification=True)


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Make a DamagedFileError of what Arrow says of a file that it can't read."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFileError.of({name: str(error)}) from error


def wanted_columns(
    schema: pa.Schema, columns: Collection[str] | None, without: Collection[str] = ()
) -> list[str]:
    """The columns of a schema that are asked for: all, or those in `columns`, but not those in `without`."""
    return [name for name in schema.names if (columns is None or name in columns) and name not in without]
