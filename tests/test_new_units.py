"""Which new sources share a unit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from curation.execution.plan import Task, plan_probes
from curation.ingest.listing import list_inputs
from datasets_media import Bench

LARGE = 2**24 + 1


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Seven files that nobody opens here; scratch has room for four videos of 16 MiB."""
    (tmp_path / "in").mkdir()
    sizes = {
        "a.mp4": 1,
        "b.mp4": LARGE,
        "c.mp4": LARGE - 1,
        "d.jpg": LARGE,
        "e.jpg": 1,
        "f.mp4": 1,
        "g.mp4": 1,
    }
    for name, size in sizes.items():
        (tmp_path / "in" / name).touch()
        os.truncate(tmp_path / "in" / name, size)
    data = {
        "name": "units",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["color"]},
        "videos": {"filters": ["color"]},
        "run": {"scratch_bytes": 2**26, "unit_videos": 4, "unit_images": 4},
    }
    return Bench(data)


def units_of(bench: Bench) -> dict[int, str]:
    """Unit -> the names of its sources, without their suffixes."""
    tasks: list[Task] = plan_probes(bench.ledger, list_inputs(bench.config), bench.config)
    return {task.unit: "".join(Path(source.uri).stem for source in task.sources) for task in tasks}


def test_large_video_has_a_unit_of_its_own_so_that_scratch_holds_all_of_a_unit(bench: Bench) -> None:
    assert units_of(bench) == {0: "de", 1: "acfg", 2: "b"}


@pytest.mark.parametrize("done", [0, 1, 2])
def test_run_that_goes_on_makes_the_units_that_are_missing(bench: Bench, done: int) -> None:
    before = units_of(bench)
    (task,) = [
        task
        for task in plan_probes(bench.ledger, list_inputs(bench.config), bench.config)
        if task.unit == done
    ]
    bench.ledger.commit_sources(task.unit, list(task.sources))
    assert units_of(bench) == {unit: names for unit, names in before.items() if unit != done}
