"""A cluster of two nodes on this machine: what is on the other one can be killed, and can go down with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from test_processes import Sleeper, end_of, look_until, pid_of, wait_gone, watched

from curation.cli.console import console
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.results import Died
from curation.execution.driver.pool import Pool
from curation.execution.progress import ConsoleProgress
from datasets_media import ROOT, TESTS, Bench, write_photo
from fault_stages import CALLS
from heads import cluster_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Cluster, Any]]:
    """The cluster, and its second node."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{TESTS}:{TESTS / 'faults'}")  # for the nodes' processes
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    with cluster_of({}, {"resources": {"second": 1}}) as cluster:
        (second,) = cluster.worker_nodes
        yield cluster, second


def test_process_on_another_node(two_nodes: tuple[Cluster, Any]) -> None:
    cluster, second = two_nodes
    connect(cluster.address, None)
    there = Sleeper.options(resources={"second": 0.1})
    process = watched(there.remote(), stall_timeout_s=2.0)
    pid = pid_of(process)
    process.call([process.actor.sleep.remote(3600)])
    look_until(process, lambda: process.beat.uri)
    os.kill(pid, signal.SIGSTOP)
    complaint, _ = end_of(process)
    assert complaint.startswith("no answer for")
    wait_gone(pid)
    process = watched(there.remote())
    look_until(process, process.is_ready)
    process.call([process.actor.sleep.remote(3600)])
    cluster.remove_node(second, allow_graceful=False)
    look_until(process, lambda: process.is_done)
    with pytest.raises(Died, match="its node went down") as died:
        process.finish()
    assert died.value.is_innocent


def test_node_that_goes_down_costs_what_was_under_way(
    two_nodes: tuple[Cluster, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is a unit; none is tried again as a suspect."""
    cluster, second = two_nodes
    (tmp_path / "in").mkdir()
    for number in range(24):
        write_photo(tmp_path / f"in/z{number:02}.jpg", number)
    data = {
        "name": "faults",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["noting_color"]},
        "stages": {"noting_color": "fault_stages:NotingColor"},
        "run": {"workers": 2, "unit_images": 1, "max_kills": 1},
    }
    bench = Bench(data)
    progress = ConsoleProgress(console())
    said: list[str] = []
    done = [-24]

    def advance(number: int) -> None:
        done[0] += number
        if done[0] == 6:
            cluster.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress, "advance", advance)
    with Pool(bench.pipeline, bench.ledger, cluster.address, progress) as pool:
        pool.do(bench.tasks("probe"))
        assert done == [0]
        pool.do(bench.tasks("filter"))
    assert done == [24]
    assert len(bench.outcomes()) == 24
    assert not [outcome for outcome in bench.outcomes().values() if outcome.startswith("failed")]
    assert not [line for line in said if "killed its worker" in line or "died on unit" in line]
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) <= 24 + 1
