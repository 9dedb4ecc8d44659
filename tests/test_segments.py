"""Segments of a long video over a real Ray: their metrics, and results that are lost on the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.cli.console import console
from curation.execution.driver.pool import Pool
from curation.execution.driver.requests import PendingSegments, Request
from curation.execution.progress import ConsoleProgress
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import UnitWorker
from datasets_media import Bench, write_video

pytestmark = pytest.mark.slow


@pytest.fixture
def long_video(tmp_path: Path) -> Bench:
    """A probed video of 20 seconds that is filtered in four segments."""
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in/long.mp4", [(80, 1), (60, 2), (60, 3)])
    data = {
        "name": "long",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "videos": {
            "scenes": {"min_clip_s": 0.5},
            "filters": ["color"],
            "color": {"min_untinted_colorfulness": None},  # the scenes have one hue each
        },
        "run": {"workers": 2, "segment_s": 5.0},
    }
    bench = Bench(data)
    worker = UnitWorker(bench.pipeline)
    for task in bench.tasks("probe"):
        worker.work(task)
    return bench


def filtered(bench: Bench) -> tuple[Metrics, list[str]]:
    """The filter pass over a real Ray: what was measured, and what was said."""
    said: list[str] = []
    done: list[int] = []
    progress = ConsoleProgress(console())
    progress.say = said.append  # type: ignore[method-assign]
    progress.advance = done.append  # type: ignore[method-assign]
    tasks = bench.tasks("filter")
    with Pool(bench.pipeline, bench.ledger, None, progress) as pool:
        metrics = pool.do(tasks)
    assert sum(done) == sum(task.num_sources for task in tasks)  # whatever they were split into
    return metrics, said


def test_metrics_of_segments_are_counted(long_video: Bench) -> None:
    """By hand: 200 frames at 10 FPS. Each is held once; those around the edges are decoded twice."""
    metrics, said = filtered(long_video)
    assert metrics.frames_held == 200
    assert 200 < metrics.frames_decoded["filter"] < 800
    assert metrics.rows["videos.color"] >= 3
    assert long_video.outcomes() == {"long.mp4": "kept"}
    assert len(long_video.rows("videos.color")) == 3
    assert not [line for line in said if "died" in line]


def lost_object() -> Any:
    """A reference to an object that went with the process that had it."""
    import ray

    @ray.remote(num_cpus=0)
    class Owner:
        def put(self) -> list[Any]:
            return [ray.put(np.zeros(300_000))]

    owner = Owner.remote()
    (reference,) = ray.get(owner.put.remote())
    ray.kill(owner)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            ray.get(reference)
        except ray.exceptions.ObjectLostError:
            return reference
        time.sleep(0.1)
    raise AssertionError("the object outlives its owner")


def test_segments_whose_results_are_lost_are_processed_again(
    long_video: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody is blamed. The first result is put out of reach, as by a node that goes down."""
    lost: list[Any] = []
    add = PendingSegments.add

    def add_first_one_lost(self: PendingSegments, request: Request, result: Any) -> None:
        if not lost:
            lost.append(result)
            result = lost_object()
        add(self, request, result)

    monkeypatch.setattr(PendingSegments, "add", add_first_one_lost)
    metrics, said = filtered(long_video)
    assert [line for line in said if "were lost with their node; processing them again" in line]
    assert long_video.outcomes() == {"long.mp4": "kept"}
    assert metrics.frames_held == 400
