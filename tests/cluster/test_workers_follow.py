"""Decode workers follow a cluster as it grows and shrinks, and wait for a place without harm."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from curation.cli.console import console
from curation.config.config import RunSettings
from curation.errors import EnvironmentFault
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.watch import ClusterWatch
from curation.execution.driver.actor import start_decode_worker
from curation.execution.driver.decode_workers import DecodeWorkers
from curation.execution.driver.pool import Pool
from curation.execution.plan import Task
from curation.execution.progress import ConsoleProgress
from datasets_media import ROOT, TESTS, Bench, write_photo
from fault_stages import CALLS
from heads import NODE, cluster_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOT_HERE = {"no such resource": 1}
"""What no node has: an actor that wants it waits for a place."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    """A head node with one CPU."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{TESTS}")  # for the nodes' processes
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    with cluster_of({}) as cluster:
        yield cluster


def bench(tmp_path: Path, num_photos: int, stage: str = "GatedColor", **run: Any) -> Bench:
    """Every photo is a unit."""
    (tmp_path / "in").mkdir()
    for number in range(num_photos):
        write_photo(tmp_path / f"in/{number}.jpg", number)
    data = {
        "name": "follow",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["gated_color"]},
        "stages": {"gated_color": f"fault_stages:{stage}"},
        "run": {"unit_images": 1, "max_kills": 1, **run},
    }
    return Bench(data)


def until(come: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not come():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


class Pass(threading.Thread):
    """The driver's loop in a thread of its own: Ray's nodes are started in the main thread alone."""

    def __init__(self, pool: Pool, tasks: Sequence[Task]) -> None:
        super().__init__(daemon=True)
        self._pool = pool
        self._tasks = tasks
        self.is_over = False

    def run(self) -> None:
        self._pool.do(self._tasks)
        self.is_over = True


def notes(tmp_path: Path) -> list[tuple[str, str]]:
    """Node and file of each call, in order."""
    path = tmp_path / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(node, name) for node, _, name in (line.partition(" ") for line in lines)]


def nodes_of(tmp_path: Path) -> list[str]:
    return [*dict.fromkeys(node for node, _ in notes(tmp_path))]


def test_nodes_that_come_get_workers_and_nodes_that_go_take_theirs_along(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second node joins in mid-pass, works, and is shut down in order while it does.

    One image is under way on it then, which costs one call more than there are images. `ray.nodes` and the
    stage's own notes say what really ran where.
    """
    work = bench(tmp_path, 6)
    progress, said = ConsoleProgress(console()), []
    monkeypatch.setattr(progress, "say", said.append)

    with Pool(work.pipeline, work.ledger, cluster.address, progress) as pool:
        pool.do(work.tasks("probe"))
        assert pool.attendance.most == 1
        going_on = Pass(pool, work.tasks("filter"))
        going_on.start()
        until(lambda: bool(notes(tmp_path)), "a call on the first node")
        added = cluster.add_node(**NODE)
        until(lambda: len(nodes_of(tmp_path)) == 2, "a call on the second node")
        cluster.remove_node(added, allow_graceful=True)
        until(lambda: pool.num_workers == 1, "that the driver sees one node less")
        (tmp_path / "gate").touch()
        going_on.join(120)
        assert going_on.is_over
        assert pool.attendance.most == 2
        assert [*pool.attendance.most_by_node] == nodes_of(tmp_path)
        assert len({pool.cluster.name_of(node) for node in nodes_of(tmp_path)}) == 2
        assert sum(node["Alive"] for node in ray.nodes()) == 1
    assert len(work.outcomes()) == 6
    assert not [outcome for outcome in work.outcomes().values() if outcome.startswith("failed")]
    assert not [line for line in said if "killed its worker" in line or "died" in line]
    assert len(notes(tmp_path)) == 6 + 1


def test_no_more_workers_come_than_the_limit_says(cluster: Cluster, tmp_path: Path) -> None:
    """Three nodes in the end, `max: 2`; the second worker waits for a place until there is a second node."""
    work = bench(tmp_path, 6, workers={"min": 1, "max": 2})
    with Pool(work.pipeline, work.ledger, cluster.address, ConsoleProgress(console())) as pool:
        pool.do(work.tasks("probe"))
        assert pool.attendance.most == 1
        going_on = Pass(pool, work.tasks("filter"))
        going_on.start()
        until(lambda: bool(notes(tmp_path)), "a call on the first node")
        for _ in range(2):
            cluster.add_node(**NODE)
        until(lambda: len(nodes_of(tmp_path)) == 2, "a call on another node")
        until(lambda: pool.cluster.num_cpus == 3, "that the driver sees the third node")
        (tmp_path / "gate").touch()
        going_on.join(120)
        assert going_on.is_over
        assert pool.attendance.most == 2
        assert pool.num_workers == 2
    assert len(nodes_of(tmp_path)) == 2
    assert len(work.outcomes()) == 6


def test_workers_are_spread_over_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers on two nodes with room for four each: one on each, whichever Ray would fill first."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{TESTS}")
    with cluster_of({"num_cpus": 4}, {"num_cpus": 4}) as cluster:
        connect(cluster.address, None)
        pipeline = bench(tmp_path, 1).pipeline
        actors = [start_decode_worker(pipeline) for _ in range(2)]
        beats = ray.get([actor.beat.remote() for actor in actors])
        assert {beat.node_id for beat in beats} == {node["NodeID"] for node in ray.nodes()}


def placed_and_not(pipeline: Any, num_placed: int) -> Callable[[Any], Any]:
    """Starts decode workers, of which only the first few find a place."""
    left = iter(range(num_placed))

    def start(_: Any) -> Any:
        actor = start_decode_worker(pipeline)
        if next(left, None) is not None:
            return actor
        ray.kill(actor)
        return WAITING.remote()

    return start


@ray.remote(num_cpus=0, resources=NOT_HERE, concurrency_groups={"watch": 1})
class _Waiting:
    @ray.method(concurrency_group="watch")
    def beat(self) -> None:
        raise AssertionError("it has no place")


WAITING: Any = _Waiting


def test_workers_without_a_place_fail_nothing_while_others_work(cluster: Cluster, tmp_path: Path) -> None:
    """The time to start is over three times for those that wait; later they are not wanted any more."""
    connect(cluster.address, None)
    watch, said = ClusterWatch(), []
    progress = ConsoleProgress(console())
    progress.say = said.append  # type: ignore[method-assign]

    def ask() -> Any:
        watch.check_now()
        return watch.state

    pipeline = bench(tmp_path, 1).pipeline
    settings = RunSettings(start_timeout_s=12.0)
    workers = DecodeWorkers(settings, placed_and_not(pipeline, 1), progress, ask)
    workers.adjust(3, pipeline, ask())
    until(lambda: workers.wait() is None and workers.attendance.most == 1, "a worker that has started")
    assert len(ask().unplaced) == 2
    deadline = time.monotonic() + 14
    while time.monotonic() < deadline:
        workers.adjust(3, pipeline, ask())
        workers.wait()
    assert said == []
    assert len(ask().unplaced) == 2
    workers.adjust(1, pipeline, ask())
    until(lambda: not ask().unplaced, "that nobody waits for a place any more")
    until(lambda: workers.wait() is None and bool([*workers.ready(pipeline)]), "the one that works")
    workers.kill_all()


def test_run_ends_when_no_worker_finds_a_place(cluster: Cluster, tmp_path: Path) -> None:
    connect(cluster.address, None)
    watch = ClusterWatch()

    def ask() -> Any:
        watch.check_now()
        return watch.state

    pipeline = bench(tmp_path, 1).pipeline
    workers = DecodeWorkers(
        RunSettings(start_timeout_s=2.0), placed_and_not(pipeline, 0), ConsoleProgress(console()), ask
    )
    workers.adjust(2, pipeline, ask())
    with pytest.raises(EnvironmentFault, match="no node has had a free CPU for a worker for 2 s"):
        until(lambda: workers.wait() is not None, "the end")
    workers.kill_all()
