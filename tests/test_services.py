"""What runs beside the workers of a pass: in an actor on a node with its GPUs, started again when it is lost.

Ray is real, its GPUs are only counted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from curation.errors import EnvironmentFault
from curation.execution.cluster.placement import nodes
from curation.execution.models.groups import ModelGroup, place_models
from curation.execution.services import ServiceHost, StepService, running
from curation.stage import Resources, Setup
from heads import cluster_of

PARTS = {"models": Resources(gpu=True)}


@dataclass
class Marked:
    """A service that writes down where and how it is started, and waits for `go` where it is told to."""

    place: Path
    cards: int = 1
    max_restarts: int = 2
    start_timeout_s: float = 60.0
    waits: bool = False
    problem: str = ""

    def resources(self) -> Resources:
        return Resources(gpu=True, whole_gpus=self.cards, max_workers=1)

    def start(self, setup: Setup, host: str) -> Mapping[str, str]:
        import ray

        if self.problem:
            raise EnvironmentFault(self.problem)
        context = ray.get_runtime_context() if ray.is_initialized() else None
        with (self.place / "started").open("a") as file:
            file.write(f"{os.getpid()}\n")
        while self.waits and not (self.place / "go").exists():
            time.sleep(0.05)
        return {
            "pid": str(os.getpid()),
            "host": host,
            "node": context.get_node_id() if context else "",
            "cards": ",".join(context.get_accelerator_ids()["GPU"]) if context else "",
            "revision": setup.revisions["model"],
            "fraction": f"{setup.gpu_fraction:g}",
        }

    def stop(self) -> None:
        (self.place / "stopped").touch()


def eventually(check: Callable[[], Any], seconds: float = 60) -> Any:
    give_up_at = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < give_up_at:
        time.sleep(0.1)
    return found


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def run_beside(
    service: Any, models: Mapping[str, Resources], device: Any, *, is_local: bool
) -> AbstractContextManager[Mapping[str, Mapping[str, str]]]:
    """Run a service beside groups of model workers."""
    groups = [ModelGroup(name, frozenset(), wanted) for name, wanted in models.items()]
    cards = nodes() if device == "cuda" else []
    _, places = place_models(groups, {"captions": service.resources()}, cards, None)
    found = [StepService("captions", service, {"model": "c0ffee"})]
    return running(found, places, device, is_local=is_local)


class TestHost:
    """In this process, without Ray."""

    def test_address_is_empty_until_it_is_started(self, tmp_path: Path) -> None:
        host = ServiceHost(Marked(tmp_path, waits=True), Setup("cpu", {"model": "c0ffee"}), "10.0.0.7")
        assert host.look_up() == {}
        (tmp_path / "go").touch()
        host.ready()
        said = host.look_up()
        assert (said["host"], said["pid"], said["revision"]) == ("10.0.0.7", str(os.getpid()), "c0ffee")

    def test_whoever_looks_is_told_why_it_did_not_start(self, tmp_path: Path) -> None:
        host = ServiceHost(Marked(tmp_path, problem="no such model"), Setup("cpu", {}), "10.0.0.7")
        for ask in (host.ready, host.look_up):
            with pytest.raises(EnvironmentFault, match="no such model"):
                ask()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster: a head without GPUs, and a node with 1. Its nodes don't know this file."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with cluster_of({"num_gpus": 0}, {"num_gpus": 1}) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster


def gpu_nodes() -> list[str]:
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]


@pytest.mark.slow
class TestOnRay:
    def test_it_runs_on_a_node_with_its_gpus_and_is_stopped(self, cluster: Any, tmp_path: Path) -> None:
        with run_beside(Marked(tmp_path), {}, "cuda", is_local=False) as found:
            said = dict(found["captions"])
            assert [said["node"]] == gpu_nodes()
            assert (said["cards"], said["fraction"], said["revision"]) == ("0", "1", "c0ffee")
            assert said["host"] == cluster.head_node.node_ip_address
            assert not (tmp_path / "stopped").exists()
        assert (tmp_path / "stopped").exists()
        assert eventually(lambda: not lives(int(said["pid"])))

    def test_it_leaves_a_part_of_the_only_card(self, cluster: Any, tmp_path: Path) -> None:
        import ray

        with run_beside(Marked(tmp_path), PARTS, "cuda", is_local=False) as found:
            assert found["captions"]["fraction"] == "0.75"
            assert ray.available_resources()["GPU"] == 0.25

    def test_without_gpus_it_takes_none_and_is_reached_by_loopback(
        self, cluster: Any, tmp_path: Path
    ) -> None:
        with run_beside(Marked(tmp_path), PARTS, "cpu", is_local=True) as found:
            assert (found["captions"]["cards"], found["captions"]["host"]) == ("", "127.0.0.1")

    def test_more_gpus_than_a_node_has_are_told(self, cluster: Any, tmp_path: Path) -> None:
        with (
            pytest.raises(EnvironmentFault, match="captions needs 2 GPUs"),
            run_beside(Marked(tmp_path, cards=2), {}, "cuda", is_local=False),
        ):
            pass

    def test_it_is_stopped_when_the_pass_fails(self, cluster: Any, tmp_path: Path) -> None:
        with (
            pytest.raises(KeyboardInterrupt),
            run_beside(Marked(tmp_path), {}, "cuda", is_local=False),
        ):
            raise KeyboardInterrupt
        assert (tmp_path / "stopped").exists()

    def test_why_it_did_not_start_is_told(self, cluster: Any, tmp_path: Path) -> None:
        service = Marked(tmp_path, problem="no such model: tiny")
        with (
            pytest.raises(EnvironmentFault, match=r"^no such model: tiny$"),
            run_beside(service, {}, "cuda", is_local=False),
        ):
            pass

    def test_one_that_never_gets_its_gpus_is_given_up(
        self, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("curation.execution.services.SEAT_TIMEOUT_S", 1.0)
        slow = Marked(tmp_path, start_timeout_s=1.0)
        with (
            run_beside(Marked(tmp_path), {}, "cuda", is_local=False),  # has the only GPU
            pytest.raises(EnvironmentFault, match="did not start within 2 s"),
            run_beside(slow, {}, "cuda", is_local=False),
        ):
            pass

    def test_killed_process_is_started_again_and_found_until_it_was_killed_too_often(
        self, cluster: Any, tmp_path: Path
    ) -> None:
        service = Marked(tmp_path, max_restarts=1)
        with run_beside(service, {}, "cuda", is_local=False) as found:
            address = found["captions"]
            first = address["pid"]
            os.kill(int(first), signal.SIGKILL)
            second = eventually(lambda: address.get("pid") not in (None, first) and address.get("pid"))
            assert second
            assert lives(int(second))
            os.kill(int(second), signal.SIGKILL)
            with pytest.raises(EnvironmentFault, match="what captions needs is gone"):
                eventually(lambda: address.get("pid") not in (None, second) and address.get("pid"))

    def test_address_is_empty_while_it_starts_again(self, cluster: Any, tmp_path: Path) -> None:
        (tmp_path / "go").touch()
        with run_beside(Marked(tmp_path, waits=True), {}, "cuda", is_local=False) as found:
            address = found["captions"]
            first = address["pid"]
            (tmp_path / "go").unlink()
            os.kill(int(first), signal.SIGKILL)
            eventually(lambda: len((tmp_path / "started").read_text().split()) == 2)
            assert dict(address) == {}
            (tmp_path / "go").touch()
            assert eventually(lambda: address.get("pid") not in (None, first))

    def test_lost_node_brings_it_to_another(self, cluster: Any, tmp_path: Path) -> None:
        import ray

        other = cluster.add_node(num_cpus=1, num_gpus=2)
        cluster.wait_for_nodes()
        # Two cards: only the new node has them, until that one is lost and a third one comes.
        with run_beside(Marked(tmp_path, cards=2), {}, "cuda", is_local=False) as found:
            address = found["captions"]
            assert address["node"] == other.node_id
            cluster.remove_node(other, allow_graceful=False)
            third = cluster.add_node(num_cpus=1, num_gpus=2)
            assert eventually(lambda: address.get("node") == third.node_id, 120)
            assert ray.available_resources()["GPU"] == 1.0
        cluster.remove_node(third)


@pytest.mark.slow
def test_workers_may_hold_the_address(cluster: Any, tmp_path: Path) -> None:
    """As they do: it travels in a task, and is looked up by many threads."""
    import ray

    @ray.remote(num_cpus=1)
    def look(address: Mapping[str, str]) -> set[str]:
        found: set[str] = set()
        threads = [threading.Thread(target=lambda: found.add(address.get("pid") or "none")) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    with run_beside(Marked(tmp_path), {}, "cuda", is_local=False) as found:
        assert ray.get(look.remote(found["captions"])) == {found["captions"]["pid"]}
