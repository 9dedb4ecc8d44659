"""A run that is stopped or killed ends within seconds, at any moment, and leaves no process behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from datasets_media import command, config_data, environment, write_config
from fault_stages import CALLS

pytestmark = pytest.mark.slow

END_S = 15.0
"""5 s on a machine that has nothing else to do; tests share theirs."""
LOG = logging.getLogger(__name__)
"""How long each end took: pytest --log-cli-level=INFO."""
SAID = "the same command goes on from there"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@dataclass
class Run:
    """A run as a process, with a temporary folder of its own for Ray.

    Attributes:
        temp: The folder.
        noted: Processes that the stage has noted, a line each.
        family: Processes that were below the run's before it ended.
    """

    process: subprocess.Popen[str]
    temp: Path
    noted: Path
    family: frozenset[int] = frozenset()

    def wait_for(self, is_there: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not is_there():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self, number: int, workers: Sequence[int] = ()) -> str:
        """Send the signal; what the run said. Fails if anything outlives it, `workers` elsewhere included."""
        self.family = descendants(self.process.pid) | frozenset(workers)
        assert self.family
        began = time.monotonic()
        self.process.send_signal(number)
        said = self.process.communicate(timeout=END_S)[1]
        ended = time.monotonic()
        while left := [pid for pid in self.family | set(mentioning(str(self.temp))) if lives(pid)]:
            assert time.monotonic() - began < END_S, [command_line(pid) for pid in left]
            time.sleep(0.02)
        LOG.info("the run ended after %.1f s, all of it after %.1f", ended - began, time.monotonic() - began)
        if number == signal.SIGKILL:
            return said
        assert self.process.returncode == 128 + number, said
        assert said.count(SAID) == 1
        assert "Traceback" not in said
        return said


Starts = Callable[..., Run]


@pytest.fixture
def start(media: Path, vocabulary: Path, tmp_path: Path) -> Iterator[Starts]:
    """Starts a run with one stage of `fault_stages` on the images, or the whole small dataset."""
    runs: list[Run] = []

    def started(stage: str | None = None, **variables: str) -> Run:
        data = config_data(media, tmp_path / "out", vocabulary)
        if stage is not None:
            data = {key: data[key] for key in ("name", "input", "output", "run")}
            data["images"] = {"filters": [stage]}
            name = "".join(part.title() for part in stage.split("_"))
            data["stages"] = {stage: f"fault_stages:{name}"}
        temp = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # sockets have short names
        own = {"RAY_TMPDIR": str(temp), CALLS: str(tmp_path / "noted")} | variables
        process = subprocess.Popen(
            command("run", "-c", write_config(tmp_path / "c.yaml", data)),
            env=environment() | own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        runs.append(Run(process, temp, tmp_path / "noted"))
        return runs[-1]

    yield started
    for run in runs:
        kill({run.process.pid, *run.family, *descendants(run.process.pid)})
        run.process.communicate()
        shutil.rmtree(run.temp, ignore_errors=True)


def lives(pid: int) -> bool:
    """Whether a process exists and has not ended: one that nobody has waited for is no more than a number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def mentioning(text: str) -> list[int]:
    return [pid for pid in all_processes() if text in command_line(pid)]


def descendants(ancestor: int) -> frozenset[int]:
    parents = {}
    for pid in all_processes():
        if lives(pid):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    found, new = set[int](), {ancestor}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new}
        found |= new
    return frozenset(found)


@pytest.mark.parametrize("number", SIGNALS)
def test_while_ray_starts(start: Starts, number: int) -> None:
    run = start()
    run.wait_for(lambda: any("gcs_server" in command_line(pid) for pid in mentioning(str(run.temp))))
    run.end(number)
    assert not list(run.temp.iterdir())


@pytest.mark.parametrize("number", SIGNALS)
def test_while_workers_load_their_models(start: Starts, number: int) -> None:
    run = start("loading_color")
    run.wait_for(run.noted.exists)
    run.end(number)
    assert not list(run.temp.iterdir())


@pytest.mark.parametrize("number", SIGNALS)
def test_while_workers_are_stuck_in_foreign_code(start: Starts, number: int) -> None:
    run = start("locked_color")
    run.wait_for(run.noted.exists)
    run.end(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_while_a_worker_is_stopped(start: Starts, number: int) -> None:
    run = start("sleeping_color")
    run.wait_for(lambda: run.noted.exists() and run.noted.read_text().endswith("\n"))
    os.kill(int(run.noted.read_text().split()[0]), signal.SIGSTOP)
    run.end(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_while_shards_are_written(start: Starts, tmp_path: Path, number: int) -> None:
    run = start()
    run.wait_for(lambda: list((tmp_path / "out/shards").rglob("*")))
    run.end(number)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray cluster that was there before the run."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    temp = tempfile.mkdtemp(prefix="c", dir="/tmp")
    options = [
        "--head",
        "--block",
        "--num-cpus=2",
        "--port=0",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--num-cpus=2", f"--temp-dir={temp}", *options],
        env=environment() | {CALLS: str(tmp_path / "noted")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = Path(temp, "ray_current_cluster")
    try:
        deadline = time.monotonic() + 120
        while not address.exists():
            assert head.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield address.read_text().strip()
        assert head.poll() is None  # the run leaves it alone
    finally:
        kill({head.pid, *descendants(head.pid)})
        head.wait()
        shutil.rmtree(temp, ignore_errors=True)


@pytest.mark.parametrize("number", SIGNALS)
def test_workers_on_a_cluster_end_with_their_run(start: Starts, cluster: str, number: int) -> None:
    run = start("locked_color", RAY_ADDRESS=cluster)
    run.wait_for(lambda: run.noted.exists() and run.noted.read_text().endswith("\n"))
    run.end(number, [int(pid) for pid in run.noted.read_text().split()])
