"""Merged unit files: the same rows before and after, also when a merge was cut short or written over."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.errors import LedgerError, WriteConflict
from curation.ledger import Ledger, compactfiles, unit_name
from curation.records import Row, Source
from curation.stage import Column
from curation.storage import open_storage
from curation.storage.local import LocalStorage

COLUMNS = {"score": Column(pa.float32(), "A score."), "codes": Column(pa.binary(), "Bytes.")}
STEP = ("text", "f00d")


def ledger_of(path: Path, num_units: int = 5) -> Ledger:
    """Units of different sizes, one of them without rows."""
    ledger = Ledger(open_storage(str(path)))
    for unit in range(num_units):
        commit(ledger, unit, [f"{unit}-{number}" for number in range(unit)])
        source = Source(source_id=f"s{unit}", uri=f"{unit}.jpg", kind="image", size_bytes=1, etag="e")
        ledger.commit_sources(unit, [source])
    return ledger


def commit(ledger: Ledger, unit: int, ids: list[str], score: float = 1.0) -> None:
    rows = [Row(name, {"score": score, "codes": name.encode()}) for name in ids]
    ledger.commit(*STEP, unit, rows, COLUMNS)


def contents(path: Path) -> tuple[list[list[Source]], list[list[Row]]]:
    """Everything, read by somebody who opens the ledger anew."""
    ledger = Ledger(open_storage(str(path)))
    sources = [ledger.sources(unit) for unit in ledger.units()]
    return sources, [ledger.rows(*STEP, unit) for unit in ledger.measured_units(*STEP)]


def files(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "ledger" / "text" / "f00d").rglob("*.parquet"))


def test_merged_units_hold_the_same(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    before = contents(tmp_path)
    assert ledger.compact([STEP]) == 10
    assert contents(tmp_path) == before
    assert files(tmp_path) == ["000001-00000.parquet"]
    assert [len(rows) for rows in before[1]] == [0, 1, 2, 3, 4]
    scanned = dict(ledger.snapshot(*STEP).scan(range(7), ["score"]))
    assert {unit: table.num_rows for unit, table in scanned.items()} == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert scanned[2].column_names == ["score"]


def test_ledger_that_was_open_before_sees_the_merge(tmp_path: Path) -> None:
    ledger, other = ledger_of(tmp_path), Ledger(open_storage(str(tmp_path)))
    rows = other.rows(*STEP, 3)
    ledger.compact([STEP])
    assert other.rows(*STEP, 3) == rows
    assert [len(table) for _, table in other.scan_sources(["source_id"], other.units())] == [1] * 5


def test_rows_added_after_a_merge_join_those_that_were_there(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    ledger.compact([STEP])
    commit(ledger, 2, ["new", "2-0"], score=9.0)
    scores = {row.sample_id: row.values["score"] for row in ledger.rows(*STEP, 2)}
    assert scores == {"2-0": 1.0, "2-1": 1.0, "new": 9.0}
    assert unit_name(2) in files(tmp_path)
    before = contents(tmp_path)
    assert ledger.compact([STEP]) == 2
    assert contents(tmp_path) == before
    assert files(tmp_path) == ["000002-00000.parquet"]


def test_merge_that_was_killed_before_it_deleted_anything_counts_nothing_twice(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    before = contents(tmp_path)
    storage = ledger.storage
    kept = {item.key: storage.read(item.key) for item in storage.list("ledger")}
    ledger.compact([STEP])
    for key, data in kept.items():
        storage.write(key, data or b"")
    assert contents(tmp_path) == before
    commit(ledger, 1, ["late"])
    assert {row.sample_id for row in Ledger(storage).rows(*STEP, 1)} == {"1-0", "late"}


def test_nothing_is_merged_below_the_bound_or_twice(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    assert ledger.compact([STEP], more_than=5) == 0
    assert ledger.compact([STEP], more_than=4) == 10
    assert ledger.compact([STEP]) == 0


def test_large_merges_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactfiles, "MAX_COMPACT_BYTES", 200)
    ledger = ledger_of(tmp_path)
    before = contents(tmp_path)
    ledger.compact([STEP])
    assert len(files(tmp_path)) > 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("max_run_bytes", [1, 400, 10**6])
def test_units_read_at_once_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_run_bytes: int
) -> None:
    ledger = ledger_of(tmp_path)
    ledger.compact([STEP])
    monkeypatch.setattr(compactfiles, "MAX_RUN_BYTES", max_run_bytes)
    for units in (range(5), [4, 2, 3, 1], [0], [3]):
        scanned = ledger.snapshot(*STEP).scan(units, ["sample_id", "codes"])
        found = [(unit, table["sample_id"].to_pylist()) for unit, table in scanned]
        assert found == [(unit, [f"{unit}-{number}" for number in range(unit)]) for unit in units]


def test_damaged_merge_is_named(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    ledger.compact([STEP])
    (path,) = (tmp_path / "ledger" / "text" / "f00d" / "compact").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LedgerError, match=r"000001-00000\.parquet is damaged"):
        Ledger(open_storage(str(tmp_path))).rows(*STEP, 3)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("whole", [True, False])
def test_merge_that_is_killed_anywhere_loses_and_repeats_nothing(tmp_path: Path, whole: bool) -> None:
    """Each write and each deletion of a merge in turn is the one that does not come about."""
    num_calls = 0
    while True:
        folder = tmp_path / str(num_calls)
        ledger = ledger_of(folder)
        ledger.compact([STEP])
        commit(ledger, 3, ["late"], score=2.0)
        commit(ledger, 7, ["new"])
        before = contents(folder)
        storage = LimitedStorage(str(folder), num_calls)
        try:
            Ledger(storage).compact([STEP], whole=whole)
        except Killed:
            assert contents(folder) == before
            Ledger(open_storage(str(folder))).compact([STEP], whole=whole)
            assert contents(folder) == before
            num_calls += 1
        else:
            break
    assert contents(folder) == before
    assert num_calls == (1 + 3 if whole else 1 + 2)


class LimitedStorage(LocalStorage):
    """A folder to which a process writes until it is killed: before its `num_calls + 1`st change."""

    def __init__(self, root: str, num_calls: int) -> None:
        super().__init__(root)
        self.num_calls = num_calls

    def _count(self) -> None:
        if self.num_calls == 0:
            raise Killed
        self.num_calls -= 1

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        self._count()
        super().write(key, data, expect)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)


def test_two_merges_at_once_lose_nothing(tmp_path: Path) -> None:
    """The second one has begun when the first one writes, and has seen fewer units."""
    ledger_of(tmp_path)

    class Late(LocalStorage):
        def write(self, key: str, data: bytes, expect: str | None = None) -> None:
            other = Ledger(open_storage(str(tmp_path)))
            commit(other, 9, ["new"])
            other.compact([STEP])
            super().write(key, data, expect)

    with pytest.raises(WriteConflict):
        Ledger(Late(str(tmp_path))).compact([STEP])
    assert [row.sample_id for row in Ledger(open_storage(str(tmp_path))).rows(*STEP, 9)] == ["new"]


def test_merging_only_what_is_new_leaves_older_merges_alone(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    ledger.compact([STEP], whole=False)
    commit(ledger, 2, ["late"], score=9.0)
    commit(ledger, 9, ["new"])
    before = contents(tmp_path)
    assert ledger.compact([STEP], whole=False) == 2
    assert files(tmp_path) == ["000001-00000.parquet", "000002-00000.parquet"]
    newest = tmp_path / "ledger" / "text" / "f00d" / "compact" / "000002-00000.parquet"
    assert pq.read_metadata(newest).num_rows == 3 + 1
    assert contents(tmp_path) == before
    assert {row.sample_id for row in Ledger(ledger.storage).rows(*STEP, 2)} == {"2-0", "2-1", "late"}


@pytest.mark.parametrize("num_read", [0, 1, 3])
@pytest.mark.parametrize("merged_before", [False, True])
def test_reader_in_the_middle_of_a_scan_does_not_notice_a_merge(
    tmp_path: Path, num_read: int, merged_before: bool
) -> None:
    ledger, reader = ledger_of(tmp_path), Ledger(open_storage(str(tmp_path)))
    if merged_before:
        ledger.compact([STEP])
    snapshot = reader.snapshot(*STEP)
    known = [(unit, table.to_pylist()) for unit, table in snapshot.scan(range(5), ["sample_id"])]
    scan = snapshot.scan(range(5), ["sample_id"])
    found = [next(scan) for _ in range(num_read)]
    commit(ledger, 8, ["new"])
    ledger.compact([STEP])
    found += scan
    assert [(unit, table.to_pylist()) for unit, table in found] == known
