"""What every way of bringing media has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from curation.ingest.metadata import PROBLEM, metadata_jsons
from curation.ingest.reach import InputStorage
from curation.records import MetadataValue, Source, SourceKind
from curation.storage import Listed

MAX_ENTRIES = 1_000_000
"""Media that one container may hold; those behind are not listed, and the container has failed."""
_FREE_METADATA_BYTES = 64 << 20
_METADATA_PER_BYTE = 16
_MAX_METADATA_BYTES = 1 << 30
_VALUE_BYTES = 8
"""What a number counts as."""
ENTRIES = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        ("path", pa.string()),
        ("carried", pa.string()),
    ]
)
"""The columns of `Entry`; `carried` is its metadata as JSON."""
_BATCH_ENTRIES = 4096


@dataclass(frozen=True)
class Container:
    """A container as it was found: the folder that it lies in, and what the listing said of it.

    Attributes:
        path: As it stands in URIs.
    """

    storage: InputStorage
    path: str
    item: Listed


@dataclass(frozen=True, slots=True)
class Entry:
    """One medium in a container, or one file that a container names.

    Attributes:
        part: What stands for it in a URI.
        position: Where it begins: a byte, a row or a line.
        size_bytes: 0 where that is not known.
        path: The file that this stands for, as the container spells it; None for a medium of its own.
    """

    part: str
    kind: SourceKind
    position: int
    size_bytes: int = 0
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    path: str | None = None


class EntryColumns:
    """Entries as columns. Text that many of them share is multiplied by the columns alone."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._batches: list[pa.RecordBatch] = []
        self.num_entries = 0

    def add(self, entries: Iterable[Entry]) -> None:
        """Take in entries, one at a time."""
        for entry in entries:
            self._entries.append(entry)
            self.num_entries += 1
            if len(self._entries) == _BATCH_ENTRIES:
                self._close_batch()

    def add_column_wise(
        self,
        parts: Sequence[str],
        kinds: Sequence[SourceKind],
        positions: Sequence[int],
        metadata: Iterable[Mapping[str, MetadataValue]],
    ) -> None:
        """Take in media of a container, of whose sizes nothing is known."""
        self._close_batch()
        num_rows = len(parts)
        self._add_batch(parts, kinds, positions, [0] * num_rows, [None] * num_rows, metadata_jsons(metadata))
        self.num_entries += num_rows

    def table(self) -> pa.Table:
        """All of them, in order (`ENTRIES`)."""
        self._close_batch()
        return pa.Table.from_batches(self._batches, ENTRIES)

    def _close_batch(self) -> None:
        entries, self._entries = self._entries, []
        if entries:
            self._add_batch(
                [entry.part for entry in entries],
                [entry.kind for entry in entries],
                [entry.position for entry in entries],
                [entry.size_bytes for entry in entries],
                [entry.path for entry in entries],
                metadata_jsons(entry.metadata for entry in entries),
            )

    def _add_batch(self, *columns: Sequence[Any]) -> None:
        arrays = [pa.array(values, field.type) for values, field in zip(columns, ENTRIES, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=ENTRIES))


@dataclass(frozen=True)
class Inventory:
    """What a container holds, by itself: nothing of it depends on the files around it.

    Attributes:
        entries: The media in it, or that it names, in order (`ENTRIES`).
        num_ignored: What else it holds; a file without media counts as one.
        left_out: What of its metadata could not be kept -> how many times.
        error_type: Name of the error that listing it to its end met.
        error: Why it could not be listed to its end.
    """

    entries: pa.Table = field(default_factory=ENTRIES.empty_table)
    num_ignored: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    error_type: str | None = None
    error: str | None = None


class Budget:
    """How much a container may bring along: a small file can repeat one long text a million times.

    The limit is 64 MiB and 16 times the size of the file, and at most 1 GiB.
    """

    def __init__(self, size_bytes: int) -> None:
        self.limit_bytes = min(_FREE_METADATA_BYTES + _METADATA_PER_BYTE * size_bytes, _MAX_METADATA_BYTES)
        self._left = self.limit_bytes

    @property
    def is_spent(self) -> bool:
        """Whether the limit has been reached."""
        return self._left < 0

    def allowed(self, metadata: dict[str, MetadataValue]) -> dict[str, MetadataValue]:
        """The metadata, or a word in its place once the limit has been reached."""
        if not self.is_spent:
            self._left -= sum(len(name) + _size_of(value) for name, value in metadata.items())
        if self.is_spent and metadata:
            return {PROBLEM: f"left out: more than {self.limit_bytes >> 20} MiB came with this container"}
        return metadata


def _size_of(value: MetadataValue) -> int:
    if isinstance(value, list):
        return sum(map(len, value))
    return len(value) if isinstance(value, str) else _VALUE_BYTES


class Reader(Protocol):
    """One way in which media come."""

    scheme: str
    """Of the URIs: "" for plain files."""

    def takes(self, key: str) -> bool:
        """Whether a file of this name is for this reader."""

    def opened(self, source: Source) -> AbstractContextManager[Path]:
        """One of these sources as a file on this machine, while the context lasts.

        Raises:
            ProbeError: it is not there any more, or can't be read.
        """


class ContainerReader(Reader, Protocol):
    """Reads files that hold media, or that name files which do."""

    suffixes: frozenset[str]
    """How names that it takes may end, from the last dot on and in lower case; `takes` decides."""

    def list(self, container: Container, on_progress: Callable[[], None]) -> Inventory:
        """What is in it, without looking at a pixel. `on_progress` is called on progress.

        Takes no more memory than `MAX_ENTRIES` and `Budget` allow, whatever the file claims.

        Raises:
            StorageError: the file can't be reached.
        """
