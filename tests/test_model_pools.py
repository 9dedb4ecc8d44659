"""The model workers of a pass on a real Ray: who is asked, who is blamed, what is left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.cli.console import console
from curation.errors import DeviceMemoryFault, EnvironmentFault, WorkerError
from curation.execution.models.client import RemoteModels
from curation.execution.models.groups import model_groups
from curation.execution.models.pools import ModelPools
from curation.execution.placement import Placement
from curation.execution.progress import ConsoleProgress
from curation.execution.worker.measure import Metrics, ModelCall
from curation.pipeline import Pipeline
from curation.records import Sample, Source
from curation.stage import Media
from datasets_media import ROOT, TESTS, built

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    places = os.pathsep.join(map(str, (ROOT, TESTS)))
    environment = {"env_vars": {"PYTHONPATH": places}}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env=environment,
        object_store_memory=200_000_000,
    )
    yield
    ray.shutdown()


def pipeline_of(tmp_path: Path, stage: str, **run: Any) -> Pipeline:
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in stage).lstrip("_")
    data = {
        "name": "pools",
        "input": [str(tmp_path)],
        "output": str(tmp_path / "out"),
        "images": {"filters": [name]},
        "stages": {name: f"model_stages:{stage}"},
        "run": {"model_workers": 1, **run},
    }
    return built(data)[1]


def pools_of(pipeline: Pipeline, number: int = 1) -> ModelPools:
    keys = {step.key for step in pipeline.steps()}
    groups = model_groups(pipeline, keys, "cpu")
    placements = {group: Placement(number) for group in groups}
    progress = ConsoleProgress(console())
    return ModelPools(pipeline, placements, {}, progress, device="cpu", max_bytes=10**8)


def call_of(pipeline: Pipeline, *names: str) -> ModelCall:
    """One gray picture per name."""
    (step,) = pipeline.steps()
    samples, media = [], []
    for name in names:
        source = Source(source_id=name, uri=f"{name}.jpg", kind="image", size_bytes=1, etag="e")
        samples.append(Sample.of_image(source))
        media.append(Media(source, np.full((1, 40, 60, 3), 128, np.uint8), np.zeros(1)))
    return ModelCall(step, samples, media)


def asking(pools: ModelPools, metrics: Metrics | None = None) -> RemoteModels:
    return RemoteModels(pools.routes(), metrics or Metrics(), pools.check)


def test_answers_are_those_of_the_stage_itself(ray_here: None, tmp_path: Path) -> None:
    pipeline, metrics = pipeline_of(tmp_path, "CrampedColor"), Metrics()
    with pools_of(pipeline, 2) as pools:
        models = asking(pools, metrics)
        answers = [models.submit(call_of(pipeline, "a", "b")), models.submit(call_of(pipeline, "c"))]
        rows = [row for answer in answers for row in answer().rows]
    assert [row.values["colorfulness"] for row in rows] == [0.0] * 3
    assert [row.values["mean_luma"] for row in rows] == pytest.approx([128.0] * 3)
    assert metrics.pool("models").bytes_sent == 3 * 40 * 60 * 3 == metrics.pool("models").most_bytes_out
    used = pools.metrics["models"]
    assert (used.num_workers, used.num_calls, used.num_samples) == (2, 2, 3)


def test_worker_that_dies_over_a_call_is_replaced_and_only_that_call_fails(
    ray_here: None, tmp_path: Path
) -> None:
    pipeline = pipeline_of(tmp_path, "DeadlyModelColor")
    with pools_of(pipeline) as pools:
        models = asking(pools)
        deadly, queued = models.submit(call_of(pipeline, "photo1")), models.submit(call_of(pipeline, "b"))
        with pytest.raises(WorkerError, match=r"died") as caught:
            deadly()
        assert not caught.value.is_blameless
        with pytest.raises(WorkerError) as caught:
            queued()
        assert caught.value.is_blameless
        again = until_routed(pools, pipeline)
        (row,) = again.submit(call_of(pipeline, "b"))().rows
        assert row.ok


def test_worker_whose_gpu_is_lost_to_it_is_replaced_and_the_call_is_told_why(
    ray_here: None, tmp_path: Path
) -> None:
    pipeline = pipeline_of(tmp_path, "LostContextColor")
    with pools_of(pipeline) as pools:
        with pytest.raises(WorkerError, match="device-side assert") as caught:
            asking(pools).submit(call_of(pipeline, "photo1"))()
        assert not caught.value.is_blameless
        (row,) = until_routed(pools, pipeline).submit(call_of(pipeline, "b"))().rows
        assert row.ok


def until_routed(pools: ModelPools, pipeline: Pipeline) -> RemoteModels:
    """The routes once a dead worker has been noticed."""
    before = pools.routes()
    deadline = time.monotonic() + 60
    while pools.routes() == before:
        assert time.monotonic() < deadline
        pools.check()
        time.sleep(0.1)
    return asking(pools)


def test_worker_whose_model_breaks_is_replaced(ray_here: None, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, "GivesUpColor")
    with pools_of(pipeline) as pools:
        models = asking(pools)
        with pytest.raises(WorkerError, match="the engine died"):
            models.submit(call_of(pipeline, "photo1"))()
        with pytest.raises(WorkerError) as caught:
            models.submit(call_of(pipeline, "b"))()
        assert caught.value.is_blameless
        (row,) = until_routed(pools, pipeline).submit(call_of(pipeline, "b"))().rows
        assert row.ok


def test_calls_that_a_stage_takes_at_once_are_measured_at_once(ray_here: None, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, "TogetherColor")
    started = time.monotonic()
    with pools_of(pipeline) as pools:
        models = asking(pools)
        answers = [models.submit(call_of(pipeline, name)) for name in ("a", "b", "c")]
        assert [row.ok for answer in answers for row in answer().rows] == [True] * 3
        seconds = time.monotonic() - started
    used = pools.metrics["models"]
    assert used.num_calls == 3
    # Each takes half a second; together no more than the time that passed, unlike three one after another.
    assert 0.5 <= used.busy_s < min(1.5, seconds)


def test_model_that_cannot_load_stops_the_run(ray_here: None, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, "BrokenModelColor")
    with (
        pytest.raises(EnvironmentFault, match="weights are missing"),
        pools_of(pipeline) as pools,
    ):
        asking(pools).submit(call_of(pipeline, "a"))()


def test_worker_that_dies_while_it_loads_is_given_up_after_a_while(ray_here: None, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, "DeadlyLoadingColor")
    with pools_of(pipeline) as pools, pytest.raises(EnvironmentFault, match="died 3 times before"):
        look_for_ever(pools)


def look_for_ever(pools: ModelPools) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        pools.check()
        time.sleep(0.2)


def test_silent_worker_is_ended(ray_here: None, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, "HangingModelColor", stall_timeout_s=2.0)
    with pools_of(pipeline) as pools:
        answer = asking(pools).submit(call_of(pipeline, "photo1"))
        with pytest.raises(WorkerError, match="died"):
            answer()


def test_too_little_memory_is_told_as_such(ray_here: None, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, "TooLargeColor")
    with (
        pools_of(pipeline) as pools,
        pytest.raises(DeviceMemoryFault, match="one sample of 1x40x60x3") as caught,
    ):
        asking(pools).submit(call_of(pipeline, "a"))()
    assert not pools.relieve(caught.value)  # it is alone on its card


def test_model_that_shares_its_cards_is_loaded_before_others_take_their_part(
    ray_here: None, tmp_path: Path
) -> None:
    stages = {
        "quickly_loaded_color": "model_stages:QuicklyLoadedColor",
        "slowly_loaded_color": "model_stages:SlowlyLoadedColor",
    }
    data = {
        "name": "pools",
        "input": [str(tmp_path)],
        "output": str(tmp_path / "out"),
        "images": {"filters": list(stages)},
        "stages": stages,
        "run": {"model_workers": 1},
    }
    pipeline = built(data)[1]
    keys = {step.key for step in pipeline.steps()}
    services = {key: {"written_to": str(tmp_path / "loaded")} for key in keys}
    placements = {
        group: Placement(1, gpu_fraction=0.75 if group.name == "slow" else 1.0)
        for group in model_groups(pipeline, keys, "cpu")
    }
    assert [group.name for group in placements] == ["quick", "slow"]
    progress = ConsoleProgress(console())
    with ModelPools(pipeline, placements, services, progress, device="cpu", max_bytes=10**8):
        deadline = time.monotonic() + 60
        while "quick ends" not in (tmp_path / "loaded").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
    said = (tmp_path / "loaded").read_text().splitlines()
    assert said == ["slow begins", "slow ends", "quick begins", "quick ends"]


def test_nothing_is_left_of_a_pass(ray_here: None, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path, "PidColor")
    with pools_of(pipeline, 2) as pools:
        models = asking(pools)
        rows = [models.submit(call_of(pipeline, name))().rows[0] for name in "abcd"]
        pids = {int(row.values["mean_luma"]) for row in rows}
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
