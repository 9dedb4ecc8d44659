"""Unit files under one folder of the ledger, and the compact files that they are merged into.

    <folder>/unit-000000.parquet                   a unit as a worker commits it
    <folder>/compact/000001-00000.parquet          many units merged, a row group each

A unit's own file counts before any compact file that holds the unit, and of compact files the newest
generation counts. So a reader never takes rows twice, whether a merge was finished, was cut short
between writing and deleting, or was followed by a commit that wrote the unit's own file anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import IO

import pyarrow as pa

from curation.errors import DamagedFileError, NoSuchObject, StorageError
from curation.ledger.compactfiles import CompactFile, CompactWriter, Footers
from curation.ledger.expected import Expected
from curation.storage import Listed, Storage, parquet
from curation.storage.base import ABSENT
from curation.storage.footer import read_footer
from curation.storage.requests import in_order

_UNIT_FILE = re.compile(r"unit-(\d{6,})\.parquet")
_COMPACT_FILE = re.compile(r"compact/(\d{6,})-\d{5,}\.parquet")


def unit_name(unit: int) -> str:
    """The file name of a unit."""
    return f"unit-{unit:06d}.parquet"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The units under one folder at one time, to be read without listing them again.

    Attributes:
        own: Units that have a file of their own.
        merged: Unit -> the newest compact file that holds it.
    """

    files: UnitFiles
    own: frozenset[int]
    merged: Mapping[int, CompactFile]

    def __contains__(self, unit: object) -> bool:
        return unit in self.own or unit in self.merged

    def units(self) -> list[int]:
        """The units, in order."""
        return sorted({*self.own, *self.merged})

    def scan(self, units: Iterable[int], columns: Collection[str]) -> Iterator[tuple[int, pa.Table]]:
        """These columns of units, in the order of the units; those that are not there are left out.

        Only the bytes of these columns are read; one that a file lacks is left out.
        """
        return self.files.scan(self, units, columns)


class UnitFiles:
    """The units under one folder."""

    def __init__(self, storage: Storage, prefix: str, schema: pa.Schema) -> None:
        """`schema` is what the files must have; `Expected` says how."""
        self._storage, self._prefix = storage, prefix
        self._expected = Expected(prefix, schema)
        self._compacts: list[CompactFile] = []
        self._footers = Footers()

    def units(self) -> list[int]:
        """The units that have a file, or rows in a compact file."""
        return self.snapshot().units()

    def _own(self) -> list[int]:
        return [*self._matching(_UNIT_FILE, self._listed()).values()]

    def _listed(self) -> list[Listed]:
        return self._storage.list(self._prefix)

    def _matching(self, pattern: re.Pattern[str], listed: Iterable[Listed]) -> dict[str, int]:
        """Key of each file whose name is like this -> the number in it."""
        keys = [item.key for item in listed]
        matches = ((key, pattern.fullmatch(key.removeprefix(f"{self._prefix}/"))) for key in keys)
        return {key: int(match[1]) for key, match in matches if match}

    def key(self, unit: int) -> str:
        """Where a unit's own file is, or would be."""
        return f"{self._prefix}/{unit_name(unit)}"

    def num_own_files(self) -> int:
        """How many units have a file of their own."""
        return len(self._own())

    def read(
        self, unit: int, columns: Collection[str] | None = None, *, without: Collection[str] = ()
    ) -> pa.Table | None:
        """The rows of a unit, with all columns or those of `columns` that it has; None if it is not there.

        Only the bytes of these columns are read; those of `without` are not.
        """
        try:
            return self._read(unit, columns, without)
        except StorageError:
            # Its file may have been merged between being found and being opened.
            return self._read(unit, columns, without)

    def _read(
        self, unit: int, columns: Collection[str] | None = None, without: Collection[str] = ()
    ) -> pa.Table | None:
        key = self.key(unit)
        try:
            with self._storage.open(key) as file:
                return self._own_table(file, unit, columns, without)
        except NoSuchObject:
            return self._read_merged(unit, columns, without)

    def _own_table(
        self,
        file: IO[bytes] | pa.NativeFile,
        unit: int,
        columns: Collection[str] | None = None,
        without: Collection[str] = (),
    ) -> pa.Table:
        """The rows in a unit's own file."""
        name = self._name(self.key(unit))
        check = partial(self._expected.check, name, unit=unit)
        table = parquet.read_columns(file, name, columns, without, check=check)
        return table.replace_schema_metadata(None)

    def _read_merged(
        self, unit: int, columns: Collection[str] | None = None, without: Collection[str] = ()
    ) -> pa.Table | None:
        compact = self._merged().get(unit)
        if compact is None:
            return None
        ((_, table),) = compact.read(self._storage, [unit], columns, without)
        return table

    def read_versioned(self, unit: int) -> tuple[pa.Table | None, str]:
        """All of a unit, and the version of its own file, for `write`."""
        data, version = self._storage.read_versioned(self.key(unit))
        if data is not None:
            return self._own_table(pa.BufferReader(data), unit), version
        return self._read_merged(unit), ABSENT

    def write(self, unit: int, table: pa.Table, expect: str | None = None) -> None:
        """Write a unit's own file, which counts before what compact files say of it.

        Raises:
            WriteConflict: its own file is not of the version `expect` any more.
        """
        table = table.replace_schema_metadata(self._expected.metadata(unit))
        self._storage.write(self.key(unit), parquet.to_bytes(table), expect=expect)

    def damaged(self) -> Iterator[tuple[str, str]]:
        """Key of each file that is not what was written, and what is wrong with it; every byte is read."""
        for key, unit in self._matching(_UNIT_FILE, self._listed()).items():
            with naming(key) as found, self._storage.open(key) as file:
                self._own_table(file, unit)
            yield from found
        for item in self._listed_compacts():
            with naming(item.key) as found:
                compact = self._opened(item)
                for _ in compact.read(self._storage, compact.row_groups, None, ()):
                    pass
            yield from found

    def remove_damaged(self, key: str) -> None:
        """Remove a file that is damaged; what is whole in a compact file gets unit files first.

        Only for who holds the output alone.
        """
        for unit, table in self._whole_units(key):
            self.write(unit, table)
        self._storage.delete(key)

    def _whole_units(self, key: str) -> Iterator[tuple[int, pa.Table]]:
        """The units of a damaged compact file that can be read, but for those that newer files hold."""
        opened: dict[str, CompactFile] = {}
        for item in self._listed_compacts():
            with suppress(DamagedFileError):
                opened[item.key] = self._opened(item)
        if key not in opened:
            return
        newer = {unit for name, file in opened.items() if name > key for unit in file.row_groups}
        for unit in opened[key].row_groups.keys() - newer - {*self._own()}:
            with suppress(DamagedFileError):
                yield from opened[key].read(self._storage, [unit], None, ())

    def snapshot(self) -> Snapshot:
        """What is there now, listed once."""
        listed = self._listed()
        own = self._matching(_UNIT_FILE, listed).values()
        return Snapshot(self, frozenset(own), self._merged(self._compacts_of(listed)))

    def scan(
        self, snapshot: Snapshot, units: Iterable[int], columns: Collection[str]
    ) -> Iterator[tuple[int, pa.Table]]:
        """These columns of units, in the order of the units; those that are not there are left out.

        Raises:
            DamagedFileError: some files are not what was written. The rest of the scan only finds out which.
        """
        own, merged = snapshot.own, snapshot.merged
        damaged: dict[str, str] = {}
        for compact, together in groupby(units, lambda unit: None if unit in own else merged.get(unit)):
            if compact is None:
                parts = self._read_each((unit for unit in together if unit in own), columns)
            else:
                parts = self._read_compact(compact, list(together), columns)
            try:
                for part in parts:
                    if not damaged:
                        yield part
            except DamagedFileError as error:
                damaged |= error.found
        if damaged:
            raise DamagedFileError.of(damaged)

    def _read_compact(
        self, compact: CompactFile, units: Sequence[int], columns: Collection[str]
    ) -> Iterator[tuple[int, pa.Table]]:
        num_read = 0
        try:
            for found in compact.read(self._storage, units, columns, ()):
                num_read += 1
                yield found
        except StorageError:
            # The file may have been merged into a newer one since it was listed.
            yield from self._read_each(units[num_read:], columns)

    def _read_each(self, units: Iterable[int], columns: Collection[str]) -> Iterator[tuple[int, pa.Table]]:
        """Units by themselves, several at a time; the damaged ones are raised in the end, all of them."""

        def read(unit: int) -> tuple[int, pa.Table | None, dict[str, str]]:
            try:
                return unit, self.read(unit, columns), {}
            except DamagedFileError as error:
                return unit, None, error.found

        damaged: dict[str, str] = {}
        for unit, table, found in in_order(self._storage, read, units):
            damaged |= found
            if table is not None:
                yield unit, table
        if damaged:
            raise DamagedFileError.of(damaged)

    def _merged(self, listed: list[Listed] | None = None) -> dict[int, CompactFile]:
        """Unit -> the newest compact file that holds it; `listed` are these files if they are known."""
        listed = self._listed_compacts() if listed is None else listed
        if [(item.key, item.etag) for item in listed] != [(file.key, file.etag) for file in self._compacts]:
            self._compacts = self._opened_all(listed)
        return {unit: file for file in self._compacts for unit in file.row_groups}

    def _listed_compacts(self) -> list[Listed]:
        """The compact files, from old to new."""
        return self._compacts_of(self._storage.list(f"{self._prefix}/compact"))

    def _compacts_of(self, listed: Iterable[Listed]) -> list[Listed]:
        found = (
            item for item in listed if _COMPACT_FILE.fullmatch(item.key.removeprefix(f"{self._prefix}/"))
        )
        return sorted(found, key=lambda item: item.key)

    def _opened_all(self, listed: Iterable[Listed]) -> list[CompactFile]:
        opened: list[CompactFile] = []
        damaged: dict[str, str] = {}
        for item in listed:
            try:
                opened.append(self._opened(item))
            except DamagedFileError as error:
                damaged |= error.found
        if damaged:
            raise DamagedFileError.of(damaged)
        return opened

    def _opened(self, item: Listed) -> CompactFile:
        name = self._name(item.key)
        with self._storage.open(item.key) as file:
            footer = read_footer(file, name)
            schema = parquet.arrow_schema(file, footer, name)
        with parquet.blaming(name):
            self._expected.check(name, schema, None)
            return CompactFile.of(item.key, item.etag, schema, footer, self._footers)

    def _name(self, key: str) -> str:
        return f"{self._storage.root}/{key}"

    def compact(self, *, whole: bool = True) -> int:
        """Merge units into a new generation of compact files, then delete what they replace.

        Nobody else may write to the folder meanwhile; readers may be about.

        Args:
            whole: Merge older compact files, too; else only the units that have files of their own.

        Returns:
            How many files were replaced; 0 if no unit has a file of its own, when nothing is done.
        """
        listed = self._listed()
        own = self._matching(_UNIT_FILE, listed)
        if not own:
            return 0
        older = self._matching(_COMPACT_FILE, listed)
        generation = max(older.values(), default=0) + 1
        writer = CompactWriter(self._storage, self._expected, generation)
        for unit in self.units() if whole else sorted(own.values()):
            table = self.read(unit)
            if table is not None:
                writer.add(unit, table)
        writer.finish()
        replaced = [*own, *older] if whole else [*own]
        for key in replaced:
            self._storage.delete(key)
        return len(replaced)

    def take_out(
        self,
        units: Collection[int],
        stays: Callable[[int, pa.Table], pa.Table],
        emptied: Collection[int] = (),
    ) -> None:
        """Take rows out of units wherever they lie, also where newer files count instead.

        Only for who holds the output alone. Interrupted, it is called again, and leaves the same.

        Args:
            units: Those that have such rows, or may have.
            stays: Gives the rows of a unit that stay.
            emptied: Units of which nothing stays, not even an empty file.
        """
        own = {*self._own()}
        for item in self._listed_compacts():
            compact = self._opened(item)
            if self._has_to_change(compact, own, units, stays, emptied):
                self._replace_compact(compact, own, units, stays, emptied)
        for unit in sorted(own & {*units}):
            data, _ = self._storage.read_versioned(self.key(unit))
            if unit in emptied or data is None:
                self._storage.delete(self.key(unit))
                continue
            table = self._own_table(pa.BufferReader(data), unit)
            left = stays(unit, table)
            if left.num_rows < table.num_rows:
                self.write(unit, left)

    def _has_to_change(
        self,
        compact: CompactFile,
        own: Collection[int],
        units: Collection[int],
        stays: Callable[[int, pa.Table], pa.Table],
        emptied: Collection[int],
    ) -> bool:
        """Whether a compact file holds rows that go, or a unit whose own file counts and may go."""
        held = sorted(compact.row_groups.keys() & {*units})
        if any(unit in own or unit in emptied for unit in held):
            return True
        parts = compact.read(self._storage, held, None, ())
        return any(stays(unit, table).num_rows < table.num_rows for unit, table in parts)

    def _replace_compact(
        self,
        compact: CompactFile,
        own: Collection[int],
        units: Collection[int],
        stays: Callable[[int, pa.Table], pa.Table],
        emptied: Collection[int],
    ) -> None:
        """Write what counts of a compact file, and stays, into one of a new generation; then delete it."""
        newest = self._merged()
        counting = [unit for unit in sorted(compact.row_groups) if newest[unit].key == compact.key]
        older = self._matching(_COMPACT_FILE, self._listed_compacts())
        writer = CompactWriter(self._storage, self._expected, max(older.values()) + 1)
        kept = [unit for unit in counting if unit not in own and unit not in emptied]
        for unit, table in compact.read(self._storage, kept, None, ()):
            writer.add(unit, stays(unit, table) if unit in units else table)
        writer.finish()
        self._storage.delete(compact.key)


@contextmanager
def naming(key: str) -> Iterator[list[tuple[str, str]]]:
    """Collects what is wrong with one file: nothing, or its key and why."""
    found: list[tuple[str, str]] = []
    try:
        yield found
    except DamagedFileError as error:
        found += [(key, why) for why in error.found.values()]
