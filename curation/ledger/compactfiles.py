"""Compact files: many units merged into one file, a row group each, and where each of them is."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from curation.ledger.expected import Expected
from curation.storage import Storage, parquet
from curation.storage.base import ABSENT
from curation.storage.footer import read_footer

_UNITS = b"units"
"""Metadata of a compact file: [unit, its row group or null if it has no rows], as JSON."""
MAX_RUN_BYTES = 4_000_000
"""Row groups of a compact file are read together up to about this size, all columns counted."""
MAX_COMPACT_BYTES = 128_000_000
"""A compact file is closed at about this size."""


class Footers:
    """The footers of the compact files that were read last.

    One takes some sixty megabytes where a file has thousands of units, and a tenth of a second to read.
    """

    MOST = 2

    def __init__(self) -> None:
        self._kept: list[tuple[CompactFile, pq.FileMetaData]] = []

    def of(self, compact: CompactFile, file: IO[bytes] | pa.NativeFile, name: str) -> pq.FileMetaData:
        """The footer of an open file.

        Raises:
            DamagedFileError: it is not what was written.
        """
        for known, footer in self._kept:
            if known is compact:
                return footer
        footer = read_footer(file, name)
        self._kept = [(compact, footer), *self._kept][: self.MOST]  # at once: threads read side by side
        return footer


@dataclass(frozen=True, eq=False)
class CompactFile:
    """A compact file, and where its units are.

    Attributes:
        schema: Of its rows.
        row_groups: Unit -> row group, or None if it has no rows.
        num_rows, num_bytes: Of each row group; the bytes are those of all columns.
        footers: What remembers its footer for a while.
    """

    key: str
    etag: str
    schema: pa.Schema
    row_groups: Mapping[int, int | None]
    num_rows: Sequence[int]
    num_bytes: Sequence[int]
    footers: Footers

    @staticmethod
    def of(key: str, etag: str, schema: pa.Schema, footer: pq.FileMetaData, footers: Footers) -> CompactFile:
        """A file with this schema and this footer.

        Raises:
            ValueError: it does not say where its units are.
        """
        groups = [footer.row_group(place) for place in range(footer.num_row_groups)]
        return CompactFile(
            key,
            etag,
            schema.remove_metadata(),
            _places_of(footer),
            [group.num_rows for group in groups],
            [group.total_byte_size for group in groups],
            footers,
        )

    def read(
        self,
        storage: Storage,
        units: Iterable[int],
        columns: Collection[str] | None,
        without: Collection[str],
    ) -> Iterator[tuple[int, pa.Table]]:
        """The rows of some of its units, with the columns that are asked for."""
        wanted = parquet.wanted_columns(self.schema, columns, without)
        name = f"{storage.root}/{self.key}"
        with storage.open(self.key) as file:
            footer = self.footers.of(self, file, name)
            with parquet.blaming(name):
                opened = parquet.open_at(file, footer)
            for together in self._runs(units):
                groups = [group for unit in together if (group := self.row_groups[unit]) is not None]
                table = self.schema.empty_table().select(wanted)
                if groups:
                    with parquet.blaming(name):
                        table = opened.read_row_groups(groups, wanted, use_threads=False)
                yield from self._by_unit(together, table.replace_schema_metadata(None))

    def _runs(self, units: Iterable[int]) -> Iterator[list[int]]:
        """The units in runs that are read at once."""
        run: list[int] = []
        held_bytes = 0
        for unit in units:
            group = self.row_groups[unit]
            num_bytes = 0 if group is None else self.num_bytes[group]
            if run and held_bytes + num_bytes > MAX_RUN_BYTES:
                yield run
                run, held_bytes = [], 0
            run.append(unit)
            held_bytes += num_bytes
        if run:
            yield run

    def _by_unit(self, units: Iterable[int], table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        """The rows of units that were read one behind the other."""
        start = 0
        for unit in units:
            group = self.row_groups[unit]
            num_rows = 0 if group is None else self.num_rows[group]
            yield unit, table.slice(start, num_rows)
            start += num_rows


class CompactWriter:
    """Writes units one after the other into compact files of one generation."""

    def __init__(self, storage: Storage, expected: Expected, generation: int) -> None:
        self._storage, self._expected, self._generation = storage, expected, generation
        self._num_written = 0
        self._held: list[tuple[int, pa.Table]] = []
        self._held_bytes = 0

    def add(self, unit: int, table: pa.Table) -> None:
        """Take in the next unit. Units of another schema begin a new file."""
        is_like_others = not self._held or table.schema.equals(self._held[0][1].schema)
        if not is_like_others or self._held_bytes + table.nbytes > MAX_COMPACT_BYTES:
            self._write()
        self._held.append((unit, table))
        self._held_bytes += table.nbytes

    def finish(self) -> None:
        """Write what is left."""
        self._write()

    def _write(self) -> None:
        if not self._held:
            return
        places: list[tuple[int, int | None]] = []
        for unit, table in self._held:
            places.append((unit, sum(group is not None for _, group in places) if table.num_rows else None))
        metadata = {_UNITS: json.dumps(places).encode(), **self._expected.metadata(None)}
        schema = self._held[0][1].schema.with_metadata(metadata)
        data = parquet.row_groups_to_bytes((table for _, table in self._held if table.num_rows), schema)
        name = f"{self._generation:06d}-{self._num_written:05d}.parquet"
        # Two runs that both believe to hold the output may not merge over each other.
        self._storage.write(f"{self._expected.folder}/compact/{name}", data, expect=ABSENT)
        self._num_written += 1
        self._held, self._held_bytes = [], 0


def _places_of(footer: pq.FileMetaData) -> dict[int, int | None]:
    """Where the units of a compact file are.

    Raises:
        ValueError: it does not say that.
    """
    try:
        places = dict(json.loads((footer.metadata or {})[_UNITS]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("it does not say where its units are") from error
    known = {None, *range(footer.num_row_groups)}
    if not all(isinstance(unit, int) and group in known for unit, group in places.items()):
        raise ValueError("its units are not where it says")
    return places
