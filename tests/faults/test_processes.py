"""Watched processes of a real Ray: stopped, holding Python's lock, killed in every state."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from curation.errors import EnvironmentFault, StorageError
from curation.execution.cluster import processes
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.processes import WATCHED, WorkerProcess
from curation.execution.cluster.results import Died, Lost, result_of
from curation.execution.worker.heartbeat import Beat, Heartbeat
from datasets_media import ROOT, TESTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@ray.remote(num_cpus=0, **WATCHED)
class Sleeper:
    """Does one thing, on one source."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._heartbeat = Heartbeat()
        time.sleep(start_s)

    def sleep(self, seconds: float) -> float:
        self._heartbeat.renew("a.mp4")
        time.sleep(seconds)
        return seconds

    def hold_lock(self, seconds: int) -> None:
        """Keep Python's lock, as a library does that never gives it back."""
        self._heartbeat.renew("a.mp4")
        time.sleep(2)
        ctypes.PyDLL(None).sleep(seconds)

    def load(self, seconds: float) -> None:
        self._heartbeat.renew("a.mp4")
        with self._heartbeat.load("captions"):
            time.sleep(seconds)

    def fail(self) -> None:
        raise StorageError("no such bucket")

    def pid(self) -> int:
        return os.getpid()

    @ray.method(concurrency_group="watch")
    def beat(self) -> Beat:
        return self._heartbeat.beat()


@pytest.fixture(scope="module")
def one_node() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{TESTS}:{TESTS / 'faults'}")  # for the class above
        connection = connect(None, 2)
        yield
        connection.close()


def watched(actor: Any, *, start_timeout_s: float = 60.0, stall_timeout_s: float = 60.0) -> WorkerProcess:
    return WorkerProcess(actor, start_timeout_s=start_timeout_s, stall_timeout_s=stall_timeout_s)


def look_until(process: WorkerProcess, come: Callable[[], Any], *, within_s: float = 60.0) -> Any:
    """Look at a process as the driver does, until something is true."""
    deadline = time.monotonic() + within_s
    while not (found := come()):
        assert time.monotonic() < deadline, "it never came"
        ray.wait(process.references, timeout=0.2) if process.references else time.sleep(0.05)
        process.look()
    return found


def pid_of(process: WorkerProcess) -> int:
    """Its process id, once it is ready."""
    look_until(process, process.is_ready)
    process.call([process.actor.pid.remote()])
    look_until(process, lambda: process.is_done)
    pid = process.finish()
    assert isinstance(pid, int)
    return pid


def wait_gone(pid: int) -> None:
    """Wait for the end of a process."""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.1)


@pytest.mark.usefixtures("one_node")
def test_call_ends_with_its_value_or_with_what_it_raised() -> None:
    process = watched(Sleeper.remote())
    assert process.is_starting
    assert not process.is_ready()
    look_until(process, process.is_ready)
    process.call([process.actor.sleep.remote(0.1)])
    assert not process.is_ready()
    look_until(process, lambda: process.is_done)
    assert process.finish() == 0.1
    look_until(process, process.is_ready)
    process.call([process.actor.fail.remote()])
    look_until(process, lambda: process.is_done)
    with pytest.raises(StorageError, match="no such bucket"):
        process.finish()
    look_until(process, process.is_ready)


def end_of(process: WorkerProcess) -> tuple[str, Died]:
    """Kill the process for the first complaint about it: the complaint, and how its call then ends."""
    complaint: str = look_until(process, process.complaint)
    process.kill(complaint)
    assert process.is_done
    with pytest.raises(Died, match=complaint) as died:
        process.finish()
    return complaint, died.value


@pytest.mark.usefixtures("one_node")
def test_stopped_process_is_silent_and_can_be_killed() -> None:
    process = watched(Sleeper.remote(), stall_timeout_s=2.0)
    pid = pid_of(process)
    process.call([process.actor.sleep.remote(3600)])
    look_until(process, lambda: process.beat.uri)
    os.kill(pid, signal.SIGSTOP)
    complaint, died = end_of(process)
    assert complaint.startswith("no answer for")
    assert complaint.endswith("s, last seen on a.mp4")
    assert not died.is_innocent
    wait_gone(pid)


@pytest.mark.usefixtures("one_node")
def test_process_that_holds_the_lock_is_silent_and_can_be_killed() -> None:
    process = watched(Sleeper.remote(), stall_timeout_s=2.0)
    pid = pid_of(process)
    process.call([process.actor.hold_lock.remote(3600)])
    look_until(process, lambda: process.beat.uri)
    complaint, _ = end_of(process)
    assert complaint.startswith("no answer for")
    wait_gone(pid)


@pytest.mark.usefixtures("one_node")
def test_no_progress_is_told_from_loading() -> None:
    process = watched(Sleeper.remote(), stall_timeout_s=2.0, start_timeout_s=6.0)
    look_until(process, process.is_ready)
    process.call([process.actor.load.remote(4)])
    look_until(process, lambda: process.beat.loading)
    look_until(process, lambda: process.complaint() or process.is_done)
    assert process.finish() is None
    look_until(process, process.is_ready)
    process.call([process.actor.load.remote(3600)])
    complaint, died = end_of(process)
    assert complaint.startswith("no progress on captions for")
    assert died.while_loading
    process = watched(Sleeper.remote(), stall_timeout_s=2.0)
    look_until(process, process.is_ready)
    process.call([process.actor.sleep.remote(3600)])
    complaint, died = end_of(process)
    assert complaint.startswith("no progress on a.mp4 for")
    assert not died.is_innocent


@pytest.mark.usefixtures("one_node")
def test_process_that_starts_too_slowly() -> None:
    process = watched(Sleeper.remote(start_s=3600), start_timeout_s=2.0)
    complaint = look_until(process, process.complaint)
    assert complaint.startswith("not started after")
    process.kill(complaint)
    with pytest.raises(Died, match="not started after"):
        look_until(process, process.is_ready)


@pytest.mark.usefixtures("one_node")
def test_process_killed_while_it_starts_idles_or_works() -> None:
    process = watched(Sleeper.remote())
    pid = pid_of(process)
    os.kill(pid, signal.SIGKILL)
    time.sleep(processes.FRESH_S * 1.5)
    with pytest.raises(Died, match="its process ended"):
        look_until(process, process.is_ready)
    process = watched(Sleeper.remote())
    pid = pid_of(process)
    process.call([process.actor.sleep.remote(3600)])
    os.kill(pid, signal.SIGKILL)
    look_until(process, lambda: process.is_done)
    with pytest.raises(Died, match="its process ended") as died:
        process.finish()
    assert not died.value.with_node


@pytest.mark.usefixtures("one_node")
def test_process_killed_after_its_first_answer_that_nobody_took() -> None:
    """Nobody looks between two passes; its answer of before must not make it look alive."""
    process = watched(Sleeper.remote())
    assert ray.wait(process.references, timeout=60)[0]
    os.kill(ray.get(process.actor.pid.remote()), signal.SIGKILL)
    time.sleep(processes.FRESH_S * 1.5)
    assert process.is_starting
    process.forget_answer()
    with pytest.raises(Died, match="its process ended"):
        look_until(process, process.is_ready)


@pytest.mark.usefixtures("one_node")
def test_process_that_was_starting_answers_anew() -> None:
    process = watched(Sleeper.remote())
    process.forget_answer()
    look_until(process, process.is_ready)


@pytest.mark.usefixtures("one_node")
def test_actor_that_cannot_be_made_is_no_death() -> None:
    process = watched(Sleeper.remote(start_s="much"))
    with pytest.raises(EnvironmentFault, match="a worker cannot start: TypeError"):
        look_until(process, process.is_ready)


def test_driver_that_was_stopped_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    clock = processes._Clock()
    seen = []
    for now[0] in (1.0, 2.0, 3602.0, 3603.0):
        seen.append(clock.now_s)
    longest_s = processes.LONGEST_ROUND_S
    assert seen == [1.0, 2.0, 2.0 + longest_s, 3.0 + longest_s]


def take_until_gone(reference: Any) -> None:
    """Take a value for as long as it is there, up to a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        result_of(reference)
        time.sleep(0.1)


@pytest.mark.usefixtures("one_node")
def test_value_whose_owner_is_gone_is_lost() -> None:
    @ray.remote(num_cpus=0)
    class Owner:
        def put(self) -> list[Any]:
            return [ray.put(bytes(300_000))]

    owner = Owner.remote()
    (reference,) = ray.get(owner.put.remote())
    ray.kill(owner)
    with pytest.raises(Lost):
        take_until_gone(reference)
