"""One Parquet shard: how it grows, row by row, and how it is opened to be read.

Every page carries a checksum, which whoever reads it here holds it against, so that a changed bit is an error
and never other codes. Shards that older versions wrote have none: their sha256 in the manifest is what tells.
"""

from __future__ import annotations

import hashlib
import io
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.storage import Storage
from curation.tokenize_shards.shards.manifest import Shard, key_in


class ShardFile:
    """Holds the file's compressed bytes and the rows of one row group in memory, nothing more."""

    def __init__(self, name: str, split: str, schema: pa.Schema, dictionary: tuple[str, ...]) -> None:
        """Begin a file. `dictionary` names the columns of few values."""
        self._name, self._split, self._schema = name, split, schema
        self._sink = io.BytesIO()
        # No statistics: nobody looks for a sample by its codes, and they would be a copy of two of them.
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            use_dictionary=list(dictionary),
            write_statistics=False,
            write_page_checksum=True,
        )
        self._rows: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []
        self._num_samples = self._num_tokens = self._num_row_groups = 0
        self._media_s = 0.0

    def add(self, row: dict[str, Any], *, media_s: float) -> None:
        """Take in a row of `num_tokens`, of a sample or of the `sample_ids` of a pack."""
        self._rows.append(row)
        self._num_samples += len(row.get("sample_ids", (None,)))
        self._num_tokens += row["num_tokens"]
        self._media_s += media_s

    def add_table(self, rows: pa.Table, *, media_s: float) -> None:
        """Take in rows of samples, which have the file's schema."""
        self._tables.append(rows)
        self._num_samples += rows.num_rows
        self._num_tokens += pc.sum(rows["num_tokens"]).as_py() or 0
        self._media_s += media_s

    def end_row_group(self) -> None:
        """What was added since the last one becomes a row group."""
        if self._rows:
            self._tables.append(pa.Table.from_pylist(self._rows, schema=self._schema))
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables).combine_chunks())
            self._rows, self._tables = [], []
            self._num_row_groups += 1

    def write(self, storage: Storage, folder: str) -> Shard:
        """Put the file into its folder as a whole."""
        self.end_row_group()
        self._writer.close()
        data = self._sink.getvalue()
        storage.write(key_in(folder, self._name), data)
        return Shard(
            name=self._name,
            split=self._split,
            num_samples=self._num_samples,
            num_tokens=self._num_tokens,
            num_row_groups=self._num_row_groups,
            media_s=round(self._media_s, 3),
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )


def open_shard(file: IO[bytes]) -> pq.ParquetFile:
    """A shard to read from. Who reads a damaged page gets an OSError.

    Raises:
        pa.ArrowException, OSError: it is no Parquet file.
    """
    return pq.ParquetFile(pa.PythonFile(file), pre_buffer=False, page_checksum_verification=True)
