"""Rows of shards as a reader holds them: several row groups at a time, documents built one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import StorageError
from curation.storage import Storage
from curation.tokenize_shards.documents.document import Task, build
from curation.tokenize_shards.shards.shardfile import open_shard

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class RowGroupShare:
    """Every `num_parts`-th row of a row group, from row `part` on: what a reader is given at least."""

    key: str
    row_group: int
    part: int
    num_parts: int


class Block(Protocol):
    """Rows in memory."""

    def documents(self, row: int) -> list[Ids]:
        """The documents of a row: one, or those of a pack."""

    def sample_ids(self, row: int) -> list[str]:
        """The samples that they are of."""


class SampleBlock:
    """Rows that hold a sample each."""

    COLUMNS = (
        "sample_id",
        "codes",
        "grid_t",
        "grid_h",
        "grid_w",
        "task",
        "text_ids",
        "meta_ids",
        "num_tokens",
    )

    def __init__(self, table: pa.Table) -> None:
        self._codes = _Lists(table["codes"])
        self._text, self._meta = _Lists(table["text_ids"]), _Lists(table["meta_ids"])
        self._shapes = [table[name].to_pylist() for name in ("grid_t", "grid_h", "grid_w")]
        self._tasks = cast("list[Task]", table["task"].to_pylist())
        self._ids: list[str] = table["sample_id"].to_pylist()

    def documents(self, row: int) -> list[Ids]:
        """One document, built from codes and text."""
        grid = self._codes[row].view("<u2").reshape([sizes[row] for sizes in self._shapes])
        return [build(self._text[row].tolist(), self._meta[row].tolist(), grid, self._tasks[row])]

    def sample_ids(self, row: int) -> list[str]:
        """One id."""
        return [self._ids[row]]


class PackBlock:
    """Rows that hold the documents of a pack each, one after the other."""

    COLUMNS = ("sample_ids", "input_ids", "lengths", "num_tokens")

    def __init__(self, table: pa.Table) -> None:
        self._ids = _Lists(table["input_ids"])
        self._lengths = _Lists(table["lengths"])
        self._sample_ids: list[list[str]] = table["sample_ids"].to_pylist()

    def documents(self, row: int) -> list[Ids]:
        """The documents of the pack."""
        return np.split(self._ids[row], np.cumsum(self._lengths[row])[:-1])

    def sample_ids(self, row: int) -> list[str]:
        """An id for each document."""
        return self._sample_ids[row]


class _Lists:
    """A column of lists or bytes: its items are views into Arrow's memory, read-only."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        if pa.types.is_binary(array.type):
            _, offsets, values = array.buffers()
            self._values: NDArray[Any] = np.frombuffer(values or b"", np.uint8)
            start = array.offset
            self._offsets = np.frombuffer(offsets, np.int32)[start : start + len(array) + 1]
        else:
            self._values = array.values.to_numpy()
            self._offsets = array.offsets.to_numpy()

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self._values[self._offsets[row] : self._offsets[row + 1]]


def read_block(storage: Storage, parts: Sequence[RowGroupShare], *, packed: bool) -> Block:
    """The rows of `parts`, one part after the other.

    Raises:
        StorageError: a shard is missing or damaged.
    """
    kind = PackBlock if packed else SampleBlock
    return kind(pa.concat_tables(_read_part(storage, part, kind.COLUMNS) for part in parts))


def read_lengths(storage: Storage, parts: Sequence[RowGroupShare]) -> NDArray[np.int64]:
    """The number of ids of each row of `parts`, without reading anything else.

    Raises:
        StorageError: a shard is missing or damaged.
    """
    tables = (_read_part(storage, part, ("num_tokens",)) for part in parts)
    lengths: NDArray[np.int64] = pa.concat_tables(tables)["num_tokens"].to_numpy().astype(np.int64)
    return lengths


def _read_part(storage: Storage, part: RowGroupShare, columns: tuple[str, ...]) -> pa.Table:
    try:
        with storage.open(part.key) as file:
            source = open_shard(file)
            table = source.read_row_group(part.row_group, columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{storage.root}/{part.key} can't be read: {error}") from error
    if part.num_parts == 1:
        return table
    return table.take(np.arange(part.part, table.num_rows, part.num_parts))
