"""Which new sources share a unit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from curation.execution.new_units import new_units
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


def test_videos_of_a_unit_fit_into_scratch_together(bench: Bench) -> None:
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


@pytest.mark.parametrize("seed", range(20))
def test_units_of_any_sizes_fit_and_do_not_change_with_what_is_done(bench: Bench, seed: int) -> None:
    random, settings = np.random.default_rng(seed), bench.config.run
    num_bytes = np.floor(2 ** random.uniform(0, 28, size=40))
    units = list(new_units("video", num_bytes, settings))
    assert sorted(np.concatenate(units).tolist()) == list(range(40))
    for places in units:
        assert len(places) <= settings.unit_videos
        assert len(places) == 1 or num_bytes[places].sum() <= settings.scratch_bytes
    is_done = random.random(len(units)) < 0.5
    left = np.sort(np.concatenate([[], *(p for p, done in zip(units, is_done, strict=True) if not done)]))
    again = [left[places].tolist() for places in new_units("video", num_bytes[left.astype(int)], settings)]
    assert again == [p.tolist() for p, done in zip(units, is_done, strict=True) if not done]


def test_few_large_videos_share_a_unit_rather_than_none(bench: Bench) -> None:
    num_bytes = np.array([1, 17e6, 17e6, 17e6, 40e6, 100e6])
    units = [places.tolist() for places in new_units("video", num_bytes, bench.config.run)]
    assert units == [[0], [1, 2], [3], [4], [5]]
