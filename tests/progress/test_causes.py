"""Why sources are read again and rows measured again, counted where it happens: by workers, on real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from curation.execution.worker.metrics import Metrics
from curation.ingest.listing import list_inputs
from curation.ledger.present import come_and_gone
from curation.ledger.unit_state import PROBE, RecomputePolicy
from datasets_media import Bench, write_photo

NUM_PHOTOS = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(NUM_PHOTOS):
        write_photo(tmp_path / f"in/p{number}.jpg", number)
    return tmp_path


def bench(folder: Path, **color: float) -> Bench:
    return Bench(
        {
            "name": "again",
            "input": [str(folder / "in")],
            "output": str(folder / "out"),
            "images": {"filters": ["resolution", "color"], "resolution": {"min_width": 8, "min_height": 8}},
            "run": {"unit_images": 2},
        }
    )


def causes(metrics: Metrics) -> dict[tuple[str, str], int]:
    return {key: number for key, number in metrics.causes.items() if number}


def test_new_run_measures_nothing_again(folder: Path) -> None:
    assert causes(bench(folder).run()) == {}
    assert causes(bench(folder).run()) == {}


def test_what_became_of_files_that_are_read_again(folder: Path) -> None:
    bench(folder).run()
    for number in range(3):
        os.utime(folder / f"in/p{number}.jpg", (1, 1))
    write_photo(folder / "in/p3.jpg", 33)
    (folder / "in/p4.txt").write_text("a caption that came along")
    metrics = bench(folder).run()
    assert causes(metrics) == {
        (PROBE, "same bytes"): 3,
        (PROBE, "other bytes"): 1,
        (PROBE, "other metadata"): 1,
    }
    assert metrics.rows["images.color"] == 1  # of the other bytes


def test_failed_rows_that_are_tried_again(folder: Path) -> None:
    for number in range(2):
        path = folder / f"in/p{number}.jpg"
        path.write_bytes(path.read_bytes()[:1500])
    first = bench(folder).run()
    assert first.failed["images.color"] == 2
    retry = RecomputePolicy(frozenset({"color", PROBE}))
    assert causes(bench(folder).run(retry)) == {("images.color", "failed before"): 2}
    everything = RecomputePolicy(frozenset({"color"}), only_failed=False)
    assert causes(bench(folder).run(everything)) == {("images.color", "recompute"): NUM_PHOTOS}


def test_source_that_could_not_be_read_is_read_again(folder: Path) -> None:
    (folder / "in/p0.jpg").write_bytes(b"no picture")
    bench(folder).run()
    retry = RecomputePolicy(frozenset({PROBE}))
    assert causes(bench(folder).run(retry)) == {(PROBE, "failed before"): 1}


def test_files_that_come_and_go_are_counted(folder: Path) -> None:
    one = bench(folder)
    assert come_and_gone(one.ledger.storage, list_inputs(one.config).sources) == {"new": 5, "gone": 0}
    one.run()
    (folder / "in/p0.jpg").unlink()
    for number in (7, 8):
        write_photo(folder / f"in/p{number}.jpg", number)
    os.utime(folder / "in/p1.jpg", (1, 1))  # another date makes no other file
    assert come_and_gone(one.ledger.storage, list_inputs(one.config).sources) == {"new": 2, "gone": 1}
