"""Unit files: whole or not at all, merged, never overwritten."""

from __future__ import annotations

import multiprocessing
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pytest

from curation.errors import ContractError, LedgerError, StorageError, WriteConflict
from curation.ledger import Ledger
from curation.records import Row, Source
from curation.stage import Column
from curation.storage import open_storage
from curation.storage.base import ABSENT

COLUMNS = {"score": Column(pa.float32(), "A score."), "tags": Column(pa.list_(pa.string()), "Words.")}


def ledger_at(path: Path) -> Ledger:
    return Ledger(open_storage(str(path)))


def row(sample_id: str, score: float = 1.0) -> Row:
    return Row(sample_id, {"score": score, "tags": ["a"]}, seconds=0.5)


def test_sources_come_back_as_they_were(tmp_path: Path) -> None:
    sources = [
        Source(
            source_id="a",
            uri="x/a.mp4",
            kind="video",
            size_bytes=3,
            etag="e",
            width=4,
            height=2,
            frame_rate=Fraction(30000, 1001),
            duration_s=1.5,
            num_frames=45,
            codec="h264",
            rotation=90,
            metadata={"caption": "an ünicode cat", "aesthetic": 5.25, "year": 2024, "nsfw": False},
        ),
        Source(
            source_id="b",
            uri="x/b.jpg",
            kind="image",
            size_bytes=0,
            etag="e",
            error_type="ProbeError",
            error="empty",
        ),
    ]
    ledger = ledger_at(tmp_path)
    ledger.commit_sources(7, sources)
    assert ledger.units() == [7]
    assert ledger.sources(7) == sources


def test_rows_come_back_failed_ones_without_values(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    failed = Row("b", {}, "DecodeError", "gone", 0.25)
    ledger.commit("stage", "f", 0, [failed, row("a")], COLUMNS)
    assert ledger.rows("stage", "f", 0) == [row("a"), failed]
    assert ledger.measured_units("stage", "f") == [0]
    assert ledger.rows("stage", "other", 0) == []


def test_union_is_written_and_present_rows_stay(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.commit("stage", "f", 0, [row("a", 1.0)], COLUMNS)
    ledger.commit("stage", "f", 0, [row("a", 2.0), row("b", 3.0)], COLUMNS)
    assert [(r.sample_id, r.values["score"]) for r in ledger.rows("stage", "f", 0)] == [
        ("a", 1.0),
        ("b", 3.0),
    ]


def test_named_rows_are_replaced_or_dropped(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.commit("stage", "f", 0, [row("a", 1.0), row("b", 1.0)], COLUMNS)
    ledger.commit("stage", "f", 0, [row("a", 2.0)], COLUMNS, replaces=["a", "b"])
    assert [(r.sample_id, r.values["score"]) for r in ledger.rows("stage", "f", 0)] == [("a", 2.0)]


def test_value_of_the_wrong_type_breaks_the_contract(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="do not fit"):
        ledger_at(tmp_path).commit("stage", "f", 0, [Row("a", {"score": "high", "tags": []})], COLUMNS)


def test_damaged_unit_file_is_named(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.commit("stage", "f", 0, [row("a")], COLUMNS)
    path = tmp_path / "ledger/stage/f/unit-000000.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LedgerError, match=r"unit-000000\.parquet is damaged"):
        ledger.rows("stage", "f", 0)


def test_second_unit_with_other_sources_is_refused(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    first = Source(source_id="a", uri="a.jpg", kind="image", size_bytes=1, etag="e")
    other = Source(source_id="b", uri="b.jpg", kind="image", size_bytes=1, etag="e")
    ledger.commit_sources(0, [first])
    ledger.commit_sources(0, [first])
    with pytest.raises(WriteConflict):
        ledger.commit_sources(0, [other])
    assert ledger.sources(0) == [first]


def _commit_many(path: str, name: str) -> None:
    ledger = Ledger(open_storage(path))
    for number in range(15):
        ledger.commit("stage", "f", 0, [row(f"{name}{number:02d}")], COLUMNS)


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_commit_many, args=(str(tmp_path), name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(ledger_at(tmp_path).rows("stage", "f", 0)) == 45


def test_write_compares_versions(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("a/b", b"1", expect=ABSENT)
    _, version = storage.read_versioned("a/b")
    storage.write("a/b", b"2", expect=version)
    for stale in (ABSENT, version):
        with pytest.raises(WriteConflict):
            storage.write("a/b", b"3", expect=stale)
    assert storage.read("a/b") == b"2"
    assert storage.read("a/none") is None
    assert [item.key for item in storage.list("")] == ["a/b"]


def test_leftovers_of_a_killed_writer_are_no_objects_and_are_removed(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("a/b", b"1")
    leftover = tmp_path / "a" / ".writing-xyz"
    leftover.write_bytes(b"half")
    assert [item.key for item in storage.list("")] == ["a/b"]
    with storage.exclusive():
        assert not leftover.exists()
        leftover.write_bytes(b"half")  # of a worker that is killed, while the run goes on
    assert not leftover.exists()
    assert storage.leftovers("") == ()


def test_second_run_on_the_same_output_is_refused(tmp_path: Path) -> None:
    with (
        open_storage(str(tmp_path)).exclusive(),
        pytest.raises(StorageError, match="another run"),
        open_storage(str(tmp_path)).exclusive(),
    ):
        pass


def test_unwritable_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        open_storage(str(tmp_path / "file")).write("a/b", b"1")
