"""A node with a card is lost: what it was asked harms nobody, and its model worker waits for another card."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from curation.cli.console import console
from curation.errors import WorkerError
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.placement import Placement
from curation.execution.cluster.watch import ClusterState, ClusterWatch
from curation.execution.models.client import ModelRoutes, RemoteModels
from curation.execution.models.groups import CARD_SHARE, model_groups
from curation.execution.models.pools import ModelPools
from curation.execution.progress import ConsoleProgress
from curation.execution.worker.measure import ModelCall
from curation.execution.worker.metrics import Metrics
from curation.records import Sample, Source
from curation.stage import Media
from datasets_media import ROOT, TESTS, built
from heads import NODE, cluster_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

START_S = 15.0


def until(come: Callable[[], Any], what: str, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not come():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def test_lost_card_costs_its_calls_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray counts two cards that are not there; a stage hangs on one of them when its node is killed."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{TESTS}")  # for the nodes' processes
    node = {**NODE, "num_gpus": 1}
    with cluster_of(node, node) as cluster:
        (second,) = cluster.worker_nodes
        connect(cluster.address, None)
        lose_and_regain(cluster, second, node, tmp_path)


def lose_and_regain(cluster: Cluster, second: Any, node: dict[str, Any], tmp_path: Path) -> None:
    data = {
        "name": "models",
        "input": [str(tmp_path)],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["hanging_model_color"]},
        "stages": {"hanging_model_color": "model_stages:HangingModelColor"},
        "run": {"model_workers": 2, "start_timeout_s": START_S},
    }
    _, pipeline = built(data)
    (step,) = pipeline.steps()
    (group,) = model_groups(pipeline, [step.key], "cpu")
    progress, said, watch = ConsoleProgress(console()), [], ClusterWatch()
    progress.say = said.append  # type: ignore[method-assign]

    def ask() -> ClusterState:
        watch.check_now()
        return watch.state

    def routes() -> list[Any]:
        pools.check()
        return [route for route in pools.routes().by_step[step.key] if route.node_id]

    with ModelPools(
        pipeline,
        {group: Placement(2, CARD_SHARE)},
        {},
        progress,
        device="cpu",
        max_bytes=10**8,
        ask_cluster=ask,
    ) as pools:
        until(lambda: len(routes()) == 2, "two model workers that have started")
        on_second = [route for route in routes() if route.node_id == second.node_id]
        assert len(on_second) == 1
        asking = RemoteModels(ModelRoutes({step.key: on_second}, 10**8), Metrics(), lambda: None)
        source = Source(source_id="a", uri="photo1.jpg", kind="image", size_bytes=1, etag="e")
        media = Media(source, np.full((1, 40, 60, 3), 128, np.uint8), np.zeros(1))
        answer = asking.submit(ModelCall(step, [Sample.of_image(source)], [media]))
        busy = on_second[0].actor
        until(lambda: ray.get(busy.beat.remote()).uri == "photo1.jpg", "that it is measured")
        cluster.remove_node(second, allow_graceful=False)
        with pytest.raises(WorkerError, match="its node went down") as lost:
            answer()
        assert lost.value.is_blameless
        until(lambda: pools.check() or said, "that the pool knows")
        assert [line.partition(":")[0] for line in said] == [f"lost a model worker of {step.key}"]
        waited_until = time.monotonic() + START_S + 2
        while time.monotonic() < waited_until:
            assert len(pools.routes().by_step[step.key]) == 1
            pools.check()
            time.sleep(0.1)
        assert len(said) == 1
        cluster.add_node(**node)
        until(lambda: len(routes()) == 2, "a worker on the new card")
