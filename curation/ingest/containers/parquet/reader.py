"""Parquet files: each row's embedded pictures and videos are sources, with its other columns.

Rows may instead name files, by the path of an Image struct without bytes or by a column of paths
(`PATH_COLUMNS`): each then stands for the listed file, and adds its other columns to what that carries.
Listing reads the footer, the columns that are metadata, and how the first values of columns of bytes
begin. A file of web addresses, such as LAION's metadata, holds no media.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.errors import ProbeError
from curation.ingest.containers.named import named_entries, why_absent
from curation.ingest.containers.parquet.cells import UNREADABLE, column_cells, first_line
from curation.ingest.containers.parquet.columns import (
    Layout,
    MediaColumn,
    chunks_of,
    contents,
    dictionary_leaves,
    layout_of,
    media_rows,
    num_bytes_of,
    paths_of,
)
from curation.ingest.containers.reader import (
    MAX_ENTRIES,
    Budget,
    Container,
    Entry,
    EntryColumns,
    Inventory,
)
from curation.ingest.locator import check_unchanged, locator_of, position_of, printable, version_of
from curation.ingest.metadata import Unkept, kept
from curation.ingest.suffixes import kind_of
from curation.records import MetadataValue, Source
from curation.storage.scratch import unnamed_file, write_temporary

_MAX_FOOTER_BYTES = 64 << 20
_MAX_FOOTER_ITEMS = 1_000_000
"""Longest list in a footer: row groups times columns, say."""
_BEAT_EVERY = 1000
_ROWS = 4096
"""Rows of a plain group that are listed at a time."""
_Media = Sequence[tuple[bool, str | None]]
"""The media in one row: whether each is embedded, and its path."""
_UNKNOWN: _Media = ((True, None),)
"""The media of a row that can't be read now: opening it says why."""


class ParquetReader:
    """Reads Parquet files that embed media, or that name files."""

    scheme = "parquet"
    suffixes = frozenset({".parquet"})

    def __init__(self) -> None:
        # Units go through a file row by row, so the one that was opened last is kept open.
        self._cursor: _Cursor | None = None

    def takes(self, key: str) -> bool:
        return key.lower().endswith(".parquet")

    def list(self, container: Container, on_progress: Callable[[], None]) -> Inventory:
        try:
            with container.storage.open(container.item.key) as file:
                parquet = _opened(file)
                layout = layout_of(parquet)
                if not layout.media and not layout.named:
                    return Inventory(num_ignored=1)
                return _Listing(parquet, layout, Budget(container.item.size_bytes), on_progress).inventory()
        except UnicodeDecodeError:
            return Inventory(error="the name of one of its columns is not UTF-8, which Arrow can't read")
        except UNREADABLE as error:
            return Inventory(error=f"damaged: {first_line(error)}")

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path]:
        locator = locator_of(source.uri)
        storage, key = locator.open_storage()
        if storage.is_local:
            check_unchanged(source, storage, key)
        name = locator.part.partition("/")[2]
        data = self._cursor_of(source).media(position_of(source), name)
        if data is None:
            raise ProbeError(why_absent(source.metadata))
        with unnamed_file() as (copy, path):
            write_temporary(copy, data)
            yield path

    def _cursor_of(self, source: Source) -> _Cursor:
        version = version_of(source)
        if self._cursor is None or self._cursor.version != version:
            if self._cursor is not None:
                self._cursor.close()
                self._cursor = None  # should the next one not open
            self._cursor = _Cursor(version)
        return self._cursor


def _opened(file: IO[bytes]) -> pq.ParquetFile:
    """A Parquet file with values that repeat kept as they are stored, and a footer of bounded size.

    Raises:
        One of `UNREADABLE`: it is damaged, or its footer is too large.
    """
    size_bytes = file.seek(0, 2)
    file.seek(max(0, size_bytes - 8))
    footer_bytes = int.from_bytes(file.read(4), "little")
    if size_bytes >= footer_bytes > _MAX_FOOTER_BYTES:
        raise ValueError(f"its footer of {footer_bytes} bytes is larger than {_MAX_FOOTER_BYTES}")
    open_file = partial(
        pq.ParquetFile,
        file,
        pre_buffer=False,
        buffer_size=1 << 20,
        thrift_string_size_limit=_MAX_FOOTER_BYTES,
        thrift_container_size_limit=_MAX_FOOTER_ITEMS,
    )
    metadata = open_file().metadata
    return open_file(metadata=metadata, read_dictionary=dictionary_leaves(metadata))


@dataclass
class _Listing:
    """Goes through the rows of a file."""

    parquet: pq.ParquetFile
    layout: Layout
    budget: Budget
    on_progress: Callable[[], None]
    entries: EntryColumns = field(default_factory=EntryColumns)
    num_empty: int = 0
    error: str | None = None

    def inventory(self) -> Inventory:
        """The entries of all rows, up to `MAX_ENTRIES`."""
        num_rows = 0
        for group in range(self.parquet.num_row_groups):
            add = self._add_plain if self._is_plain(group) else self._add_rows
            num_rows += add(group, num_rows)
            if self.error is not None:
                break
        left_out = {f"column {printable(name)} ({why})": 1 for name, why in self.layout.left_out.items()}
        return Inventory(self.entries.table(), self.num_empty, left_out, error=self.error)

    def _is_plain(self, group: int) -> bool:
        """Whether each row of a group is one medium, and all of them are there."""
        media = self.layout.media
        return len(media) == 1 and not media[0].is_list and bool(_all_embedded(self.parquet, group, media[0]))

    def _add_plain(self, group: int, first_row: int) -> int:
        """`_add_rows` of a plain group, column by column: so most files are."""
        (column,) = self.layout.media
        names = self._names()
        cells = [self._cells(group, name) for name in names]
        media = _media_of(self.parquet, group, column)
        num_rows: int = self.parquet.metadata.row_group(group).num_rows
        num_allowed = min(num_rows, MAX_ENTRIES - self.entries.num_entries)
        for start in range(0, num_allowed, _ROWS):
            self.on_progress()
            rows = range(first_row + start, first_row + min(start + _ROWS, num_allowed))
            values = [dict(zip(names, map(next, cells), strict=True)) for _ in rows]
            paths = [
                _path_of(column, found, path) for found, ((_, path),) in zip(values, media, strict=False)
            ]
            kinds = [kind_of(path) or column.kind for path in paths]
            self.entries.add_column_wise([*map(str, rows)], kinds, rows, map(self._metadata, values))
        if num_allowed < num_rows:
            self._stop_at(first_row + num_allowed)
        return num_allowed

    def _add_rows(self, group: int, first_row: int) -> int:
        """Add the entries of a group; the number of rows that were added."""
        num_rows = 0
        for row, (values, media) in enumerate(self._rows(group), first_row):
            if row % _BEAT_EVERY == 0:
                self.on_progress()
            found = list(self._entries(row, values, media))
            if self.entries.num_entries + len(found) > MAX_ENTRIES:
                self._stop_at(row)
                break
            self.entries.add(found)
            self.num_empty += not found
            num_rows += 1
        return num_rows

    def _stop_at(self, row: int) -> None:
        self.error = f"it holds more than {MAX_ENTRIES} media; those from row {row} on are not listed"

    def _names(self) -> list[str]:
        """The columns that are read beside the media."""
        return [*self.layout.named, *(() if self.budget.is_spent else self.layout.metadata)]

    def _rows(self, group: int) -> Iterator[tuple[dict[str, Any], tuple[_Media, ...]]]:
        """The values that are carried and the media of each row."""
        names = self._names()
        columns = [self._cells(group, name) for name in names]
        media = [_media_of(self.parquet, group, column) for column in self.layout.media]
        for _ in range(self.parquet.metadata.row_group(group).num_rows):
            yield dict(zip(names, map(next, columns), strict=True)), tuple(map(next, media))

    def _cells(self, group: int, name: str) -> Iterator[Any]:
        num_bytes = num_bytes_of(self.parquet, group, name)
        if num_bytes > self.budget.limit_bytes:
            return repeat(Unkept(f"{num_bytes} bytes are too many for a column of this file"))
        return column_cells(self.parquet, group, name)

    def _entries(self, row: int, values: dict[str, Any], media: Sequence[_Media]) -> Iterator[Entry]:
        if self.layout.named:
            yield from named_entries(values, self.layout.named, row, self._metadata)
            return
        several = len(self.layout.media) > 1
        for column, found in zip(self.layout.media, media, strict=True):
            part = f"{row}/{printable(column.name)}" if several else f"{row}"
            for index, (is_embedded, path) in enumerate(found):
                path = _path_of(column, values, path)
                yield Entry(
                    f"{part}/{index}" if column.is_list else part,
                    kind_of(path) or column.kind,
                    row,
                    metadata=self._metadata(values),
                    path=None if is_embedded or not path else path,
                )

    def _metadata(self, values: dict[str, Any]) -> dict[str, MetadataValue]:
        return self.budget.allowed(kept(values))


def _path_of(column: MediaColumn, values: Mapping[str, Any], path: Any) -> str:
    """What a medium is called, by its own column or another one; "" if it is not."""
    path = values.get(column.path) if path is None and column.path else path
    return printable(path) if isinstance(path, str) else ""


def _media_of(parquet: pq.ParquetFile, group: int, column: MediaColumn) -> Iterator[_Media]:
    """The media of each row of a group; without end, for what can't be read."""
    with suppress(*UNREADABLE):
        yield from _readable_media_of(parquet, group, column)
    yield from repeat(_UNKNOWN)


def _readable_media_of(parquet: pq.ParquetFile, group: int, column: MediaColumn) -> Iterator[_Media]:
    embedded = _all_embedded(parquet, group, column)
    has_paths = column.is_struct and column.path is not None
    if not has_paths and not column.is_list and embedded is not None:
        yield from repeat(((embedded, None),))
    elif not has_paths:
        yield from ([(flag, None) for flag in row] for row in _flags(parquet, group, column))
    elif embedded is not None:
        yield from ([(embedded, path) for path in row] for row in paths_of(parquet, group, column))
    else:
        rows = zip(_flags(parquet, group, column), paths_of(parquet, group, column), strict=True)
        yield from (list(zip(flags, paths, strict=True)) for flags, paths in rows)


def _all_embedded(parquet: pq.ParquetFile, group: int, column: MediaColumn) -> bool | None:
    """Whether all of a group's media are there, or none; None if some are, or the footer does not say."""
    if column.path is None:
        return True
    end = ".bytes" if column.is_struct else ""
    chunks = chunks_of(parquet, group, column.name)
    chunk = next((chunk for chunk in chunks if chunk.path_in_schema.endswith(end)), None)
    # Arrow ends the process when it is asked for statistics of a type that a damaged footer made up.
    if chunk is None or chunk.physical_type != "BYTE_ARRAY" or chunk.statistics is None:
        return None
    if not chunk.statistics.has_null_count:
        return None
    if chunk.statistics.null_count == 0:
        return True
    return False if chunk.statistics.null_count == chunk.num_values else None


def _flags(parquet: pq.ParquetFile, group: int, column: MediaColumn) -> Iterator[list[bool]]:
    """Which media of each row are there. Reads the media, a few rows at a time."""
    rows = media_rows(parquet, group, column)
    for batch in parquet.iter_batches(rows, row_groups=[group], columns=[column.name], use_threads=False):
        array = batch.column(0)
        lengths = pc.list_value_length(array).to_pylist() if column.is_list else [1] * len(array)
        there = iter(pc.is_valid(contents(array, column)).to_pylist())
        for length in lengths:
            yield [flag for _, flag in zip(range(length or 0), there, strict=False)]


class _Cursor:
    """Reads the media of rows that are asked for in rising order, a few rows at a time."""

    def __init__(self, version: tuple[str, str]) -> None:
        """`version` is the file's URI and etag."""
        self.version = version
        storage, key = locator_of(version[0]).open_storage()
        self._file = storage.open(key, version[1])
        try:
            self._parquet = _opened(self._file)
            self._columns = {printable(column.name): column for column in layout_of(self._parquet).media}
        except UNREADABLE as error:
            self._file.close()
            raise ProbeError(f"damaged: {first_line(error)}") from error
        self._batches: Iterator[Any] = iter(())
        self._at = ("", -1)
        self._first_row = 0
        self._rows: pa.Array = pa.nulls(0)

    def close(self) -> None:
        """Let go of the file."""
        self._batches = iter(())
        self._parquet.close()
        self._file.close()

    def media(self, row: int, part: str) -> bytes | None:
        """The bytes in a row; None if there are none.

        `part` says which: name of the column where there are several, number where it holds lists.

        Raises:
            ProbeError: the row can't be read.
        """
        if not self._columns:
            return None
        column, index = self._meant(part)
        try:
            value = self._value(row, column, index)
        except (*UNREADABLE, StopIteration, LookupError) as error:
            self._at = ("", -1)
            raise ProbeError(f"row {row} can't be read: {first_line(error)}") from error
        return value

    def _meant(self, part: str) -> tuple[MediaColumn, int]:
        if len(self._columns) == 1:
            return next(iter(self._columns.values())), int(part or 0)
        if part in self._columns:
            return self._columns[part], 0
        name, _, index = part.rpartition("/")
        return self._columns[name], int(index)

    def _value(self, row: int, column: MediaColumn, index: int) -> bytes | None:
        metadata = self._parquet.metadata
        group, first = 0, 0
        while row >= first + metadata.row_group(group).num_rows:
            first += metadata.row_group(group).num_rows
            group += 1
        if self._at != (column.name, group) or row < self._first_row:
            self._at, self._first_row, self._rows = (column.name, group), first, pa.nulls(0)
            self._batches = self._parquet.iter_batches(
                media_rows(self._parquet, group, column),
                row_groups=[group],
                columns=[column.name],
                use_threads=False,
            )
        while row >= self._first_row + len(self._rows):
            self._first_row += len(self._rows)
            self._rows = next(self._batches).column(0)
        one = contents(self._rows.slice(row - self._first_row, 1), column)
        value: bytes | None = one[index].as_py()
        return value
