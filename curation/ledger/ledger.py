"""The ledger: what has been listed and measured, in Parquet unit files that appear whole or not at all.

    <output>/sources/unit-000000.parquet                        the sources of a unit, probed
    <output>/ledger/<stage>/<fingerprint>/unit-000000.parquet   one row per measured sample

Nothing else remembers progress. A commit reads the unit file, adds the new rows and replaces the
version that was read; whoever comes second merges with what the first one wrote. `unitfiles` knows how
many units can share a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import LedgerError, WriteConflict
from curation.ledger.schemas import (
    EVERY_STAGE,
    SOURCES,
    merge_rows,
    rows_to_table,
    sources_to_table,
    table_to_rows,
    table_to_sources,
)
from curation.ledger.unitfiles import Snapshot, UnitFiles
from curation.records import Row, Source
from curation.stage import Column
from curation.storage import Storage
from curation.storage.base import ABSENT

_MAX_CONFLICTS = 20


class Ledger:
    """Reads and commits the unit files under one output root."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._sources = UnitFiles(storage, "sources", SOURCES)
        self._steps: dict[tuple[str, str], UnitFiles] = {}

    def units(self) -> list[int]:
        """The units whose sources have been listed and probed."""
        return self._sources.units()

    def measured_units(self, stage: str, fingerprint: str) -> list[int]:
        """The units that have rows of this stage."""
        return self._step(stage, fingerprint).units()

    def _step(self, stage: str, fingerprint: str) -> UnitFiles:
        key = (stage, fingerprint)
        if key not in self._steps:
            self._steps[key] = UnitFiles(self.storage, f"ledger/{stage}/{fingerprint}", EVERY_STAGE)
        return self._steps[key]

    def sources(self, unit: int) -> list[Source]:
        """The sources of a unit.

        Raises:
            LedgerError: the unit is missing or damaged.
        """
        table = self._sources.read(unit)
        if table is None:
            raise LedgerError(f"{self.storage.root}/{self._sources.key(unit)} is missing")
        return table_to_sources(table)

    def sources_table(self, columns: Sequence[str]) -> pa.Table:
        """These columns of all sources, and `unit`; unit by unit, within a unit from old to new.

        Raises:
            LedgerError: a unit file is missing or damaged.
        """
        parts = [
            part.append_column("unit", pa.array(np.full(part.num_rows, unit)))
            for unit, part in self.scan_sources(columns, self.units())
        ]
        schema = pa.schema([*(SOURCES.field(name) for name in columns), ("unit", pa.int64())])
        return pa.concat_tables([schema.empty_table(), *parts])

    def commit_sources(self, unit: int, sources: list[Source]) -> None:
        """Write a new unit; the first writer wins, a doubled worker does no harm."""
        try:
            self._sources.write(unit, sources_to_table(sources), expect=ABSENT)
        except WriteConflict:
            present = {source.source_id for source in self.sources(unit)}
            if present != {source.source_id for source in sources}:
                raise

    def replace_sources(self, unit: int, sources: list[Source]) -> None:
        """Overwrite a unit: sources were probed again, changed their date, or carry something else."""
        self._sources.write(unit, sources_to_table(sources))

    def rows(self, stage: str, fingerprint: str, unit: int, *, without: Collection[str] = ()) -> list[Row]:
        """Every row of a stage in a unit, failed ones included, without some columns."""
        table = self._step(stage, fingerprint).read(unit, without=without)
        return [] if table is None else table_to_rows(table)

    def columns(self, stage: str, fingerprint: str, unit: int, names: Sequence[str]) -> pa.Table | None:
        """`sample_id` and these columns of the rows that did not fail; None where the unit has none."""
        table = self._step(stage, fingerprint).read(unit, ["sample_id", "status", *names])
        return (
            None if table is None else table.filter(pc.equal(table["status"], "ok")).drop_columns(["status"])
        )

    @cached_property
    def known_steps(self) -> frozenset[tuple[str, str]]:
        """Name and fingerprint of all stages that had rows when this was asked first."""
        keys = (item.key.split("/") for item in self.storage.list("ledger"))
        return frozenset((key[1], key[2]) for key in keys if len(key) > 3)

    def used_units(self) -> set[int]:
        """Units that have sources, or rows of any stage, whatever became of their sources."""
        found = set(self.units())
        for step in self.known_steps:
            found.update(self.measured_units(*step))
        return found

    def damaged(self) -> dict[str, str]:
        """Key of each file that is not what was written, and what is wrong with it; everything is read."""
        found = dict(self._sources.damaged())
        for step in sorted(self.known_steps):
            found |= self._step(*step).damaged()
        return found

    def remove_damaged(self, key: str) -> None:
        """Remove a damaged file of the ledger. Only for who holds the output alone."""
        folder = key.partition("/compact/")[0] if "/compact/" in key else key.rpartition("/")[0]
        files = self._sources if folder == "sources" else self._step(*folder.split("/")[1:])
        files.remove_damaged(key)

    def remove_rows(self, stage: str, fingerprint: str, unit: int, sample_ids: Iterable[str]) -> None:
        """Take rows out of a unit file, so that they are measured again.

        Raises:
            LedgerError: the unit file is damaged, or never stops changing.
        """
        gone = pa.array(sample_ids, pa.string())

        def without(present: pa.Table | None) -> pa.Table | None:
            if present is None:
                return None
            return present.filter(pc.invert(pc.is_in(present["sample_id"], value_set=gone)))

        self._rewrite(stage, fingerprint, unit, without)

    def take_out(
        self,
        step: tuple[str, str] | None,
        units: Collection[int],
        stays: Callable[[int, pa.Table], pa.Table],
        emptied: Collection[int] = (),
    ) -> None:
        """Take rows out of a stage, or of the sources (None), for good: `UnitFiles.take_out` says how."""
        files = self._sources if step is None else self._step(*step)
        files.take_out(units, stays, emptied)

    def snapshot(self, stage: str, fingerprint: str) -> Snapshot:
        """The units that have rows of a stage now, to be scanned by column, failed rows included."""
        return self._step(stage, fingerprint).snapshot()

    def scan_sources(self, columns: Sequence[str], units: Iterable[int]) -> Iterator[tuple[int, pa.Table]]:
        """These columns of the sources, unit by unit; null where a file was written before they were."""
        schema = pa.schema([SOURCES.field(name) for name in columns])
        for unit, part in self._sources.snapshot().scan(units, columns):
            there = {name: part[name] for name in part.column_names}
            yield (
                unit,
                pa.table([there.get(f.name, pa.nulls(part.num_rows, f.type)) for f in schema], schema=schema),
            )

    def compact(self, steps: Iterable[tuple[str, str]], *, more_than: int = 0, whole: bool = True) -> int:
        """Merge the unit files of the sources and of these (stage, fingerprint)s.

        Only for who holds the output alone; others may read meanwhile.

        Args:
            steps: The stages.
            more_than: Stages with so many unit files or fewer are left alone.
            whole: Merge older merged files, too.

        Returns:
            How many files were replaced.
        """
        folders = [self._sources, *(self._step(*step) for step in dict.fromkeys(steps))]
        return sum(folder.compact(whole=whole) for folder in folders if folder.num_own_files() > more_than)

    def commit(
        self,
        stage: str,
        fingerprint: str,
        unit: int,
        rows: Iterable[Row],
        columns: Mapping[str, Column],
        *,
        replaces: Iterable[str] = (),
    ) -> None:
        """Add rows to a unit file. A row that is there already stays, unless named in `replaces`.

        Raises:
            LedgerError: the unit file is damaged, or never stops changing.
        """
        by_id: dict[str, Row] = {}
        for row in rows:
            by_id.setdefault(row.sample_id, row)
        table = rows_to_table(by_id.values(), columns)
        self.commit_table(stage, fingerprint, unit, table, replaces=replaces)

    def commit_table(
        self, stage: str, fingerprint: str, unit: int, table: pa.Table, *, replaces: Iterable[str] = ()
    ) -> None:
        """`commit` of rows that are a table of `stage_schema`.

        Raises:
            LedgerError: the unit file is damaged, or never stops changing.
        """
        old = pa.array(replaces, pa.string())
        self._rewrite(stage, fingerprint, unit, lambda present: merge_rows(present, table, old))

    def _rewrite(
        self,
        stage: str,
        fingerprint: str,
        unit: int,
        change: Callable[[pa.Table | None], pa.Table | None],
    ) -> None:
        """Replace the version of a unit file that was read; once more where another one came first.

        `change` gets the rows that are there, None where there is no file, and gives those to write, or None
        for nothing.
        """
        files = self._step(stage, fingerprint)
        for _ in range(_MAX_CONFLICTS):
            present, version = files.read_versioned(unit)
            table = change(present)
            if table is None:
                return
            try:
                files.write(unit, table, expect=version)
            except WriteConflict:
                continue
            return
        raise LedgerError(f"{files.key(unit)} was changed by others {_MAX_CONFLICTS} times in a row")
