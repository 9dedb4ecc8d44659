"""The ledger: what has been listed and measured, in Parquet unit files that appear whole or not at all.

    <output>/sources/unit-000000.parquet                        the sources of a unit, probed
    <output>/ledger/<stage>/<fingerprint>/unit-000000.parquet   one row per measured sample

Nothing else remembers progress. A commit reads the unit file, adds the new rows and replaces the
version that was read; whoever comes second merges with what the first one wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from curation import tables
from curation.errors import LedgerError, WriteConflict
from curation.records import Row, Source
from curation.storage import Storage
from curation.storage.base import ABSENT

_UNIT_FILE = re.compile(r"unit-(\d{6,})\.parquet$")
_MAX_CONFLICTS = 20

BIG_COLUMNS = frozenset({"codes", "embedding", "thumbnail"})
"""Columns that no decision needs, left out unless asked for."""


def unit_name(unit: int) -> str:
    """The file name of a unit."""
    return f"unit-{unit:06d}.parquet"


class Ledger:
    """Reads and commits the unit files under one output root."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def units(self) -> list[int]:
        """The units whose sources have been listed and probed."""
        return self._units_under("sources")

    def measured_units(self, stage: str, fingerprint: str) -> list[int]:
        """The units that have rows of this stage."""
        return self._units_under(f"ledger/{stage}/{fingerprint}")

    def _units_under(self, prefix: str) -> list[int]:
        matches = (_UNIT_FILE.search(item.key) for item in self.storage.list(prefix))
        return sorted(int(match[1]) for match in matches if match)

    def sources(self, unit: int) -> list[Source]:
        """The sources of a unit.

        Raises:
            LedgerError: the unit file is missing or damaged.
        """
        key = f"sources/{unit_name(unit)}"
        data = self.storage.read(key)
        if data is None:
            raise LedgerError(f"{self.storage.root}/{key} is missing")
        return tables.table_to_sources(tables.from_bytes(data, key))

    def commit_sources(self, unit: int, sources: list[Source]) -> None:
        """Write a new unit; the first writer wins, a doubled worker does no harm."""
        data = tables.to_bytes(tables.sources_to_table(sources))
        try:
            self.storage.write(f"sources/{unit_name(unit)}", data, expect=ABSENT)
        except WriteConflict:
            present = {source.source_id for source in self.sources(unit)}
            if present != {source.source_id for source in sources}:
                raise

    def replace_sources(self, unit: int, sources: list[Source]) -> None:
        """Overwrite a unit whose failed sources were probed again."""
        self.storage.write(f"sources/{unit_name(unit)}", tables.to_bytes(tables.sources_to_table(sources)))

    def rows(self, stage: str, fingerprint: str, unit: int, *, with_big: bool = False) -> list[Row]:
        """Every row of a stage in a unit, failed ones included."""
        key = f"ledger/{stage}/{fingerprint}/{unit_name(unit)}"
        data = self.storage.read(key)
        return [] if data is None else _parse(data, key, with_big=with_big)

    def columns(self, stage: str, fingerprint: str, unit: int, names: Sequence[str]) -> pa.Table | None:
        """`sample_id` and these columns of the rows that did not fail; None where the unit has none."""
        key = f"ledger/{stage}/{fingerprint}/{unit_name(unit)}"
        data = self.storage.read(key)
        if data is None:
            return None
        table = tables.from_bytes(data, key, only=["sample_id", "status", *names])
        return table.filter(pc.equal(table["status"], "ok")).drop_columns(["status"])

    def scan(
        self, stage: str, fingerprint: str, columns: Sequence[str], units: Iterable[int]
    ) -> Iterator[tuple[int, pa.Table]]:
        """These columns of a stage's rows, failed ones included, unit by unit; each must have a file.

        Only the bytes of these columns are read. A column that a file lacks is left out.
        """
        yield from self._scan(f"ledger/{stage}/{fingerprint}", columns, units)

    def scan_sources(self, columns: Sequence[str], units: Iterable[int]) -> Iterator[tuple[int, pa.Table]]:
        """These columns of the sources, unit by unit."""
        yield from self._scan("sources", columns, units)

    def _scan(
        self, prefix: str, columns: Sequence[str], units: Iterable[int]
    ) -> Iterator[tuple[int, pa.Table]]:
        for unit in units:
            key = f"{prefix}/{unit_name(unit)}"
            with self.storage.open(key) as file:
                yield unit, tables.read_columns(file, key, columns)

    def commit(
        self,
        stage: str,
        fingerprint: str,
        unit: int,
        rows: Iterable[Row],
        columns: Mapping[str, pa.DataType],
        *,
        replaces: Iterable[str] = (),
    ) -> None:
        """Add rows to a unit file. A row that is there already stays, unless named in `replaces`.

        Raises:
            LedgerError: the unit file is damaged, or never stops changing.
        """
        new, old = list(rows), set(replaces)
        key = f"ledger/{stage}/{fingerprint}/{unit_name(unit)}"
        for _ in range(_MAX_CONFLICTS):
            data, version = self.storage.read_versioned(key)
            present = [] if data is None else _parse(data, key, with_big=True)
            merged = {row.sample_id: row for row in present if row.sample_id not in old}
            for row in new:
                merged.setdefault(row.sample_id, row)
            try:
                table = tables.rows_to_table(merged.values(), columns)
                self.storage.write(key, tables.to_bytes(table), expect=version)
            except WriteConflict:
                continue
            return
        raise LedgerError(f"{key} was changed by others {_MAX_CONFLICTS} times in a row")


def _parse(data: bytes, key: str, *, with_big: bool) -> list[Row]:
    return tables.table_to_rows(
        tables.from_bytes(data, key, without=frozenset() if with_big else BIG_COLUMNS)
    )
