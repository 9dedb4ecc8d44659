"""A run whose processes are killed, stopped or starved from outside: it goes on, or ends with a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_faults import FINE, images, images_only, outcomes

from curation.cli.console import console
from curation.execution.cluster.processes import FRESH_S
from curation.execution.driver.pool import Pool
from curation.execution.progress import ConsoleProgress
from datasets_media import Bench, command, curation, environment, write_photo
from fault_stages import CALLS
from process_tree import kill, processes_below

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize(
    ("stage", "complaint"), [("LockingColor", "no answer for"), ("StoppingColor", "no answer for")]
)
def test_worker_that_cannot_answer_is_killed_and_its_source_failed(
    media: Path, tmp_path: Path, stage: str, complaint: str
) -> None:
    config = images_only(media, tmp_path, stage, stall_timeout_s=6.0, max_kills=1)
    said = curation("run", "-c", config)
    assert f"{complaint} " in said
    assert "photo1.jpg killed its worker (no answer for" in said
    assert images(outcomes(config, tmp_path)) == FINE | {"photo1.jpg": ("failed", "PoisonSource")}


def test_one_deadly_source_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of four files, and two workers: whole units are done while the suspects of the first wait."""
    monkeypatch.setenv(CALLS, str(tmp_path / "calls"))
    (tmp_path / "in").mkdir()
    for number in range(1, 41):
        name = "photo1" if number == 1 else f"z{number:02}"
        write_photo(tmp_path / f"in/{name}.jpg", number)
    config = images_only(tmp_path / "in", tmp_path, "NotingColor", unit_images=4, max_kills=2)
    said = curation("run", "-c", config)
    assert "photo1.jpg killed its worker" in said
    found = outcomes(config, tmp_path)
    assert found.pop("photo1.jpg") == ("failed", "PoisonSource")
    assert len(found) == 39
    assert not [name for name, (outcome, _) in found.items() if outcome == "failed"]
    calls = (tmp_path / "calls").read_text().split()
    places = [place for place, name in enumerate(calls) if name == "photo1.jpg"]
    assert len(places) == 3  # in its unit, and twice alone
    own_unit = {"photo1.jpg", "z02.jpg", "z03.jpg", "z04.jpg"}
    meanwhile = set(calls[places[0] : places[-1]]) - own_unit
    # The other worker had one unit when the first died; while that is replaced twice, it goes on.
    assert len(meanwhile) > 4


class Run:
    """A run in the background."""

    def __init__(self, config: Path, folder: Path, **env: str) -> None:
        self._said = (folder / "said.txt").open("w+")
        self.process = subprocess.Popen(
            command("run", "-c", config),
            env=environment() | env,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ends(self, within_s: float, meanwhile: Callable[[], object] = lambda: None) -> tuple[int, str]:
        """Exit code, and what it said."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on for ever:\n{self.said()}"
            meanwhile()
            time.sleep(0.05)
        return self.process.returncode, self.said()

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read()

    def wait_for(self, path: Path) -> None:
        """Wait until the run has made a file."""
        deadline = time.monotonic() + 120
        while not path.exists():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def kill(self, title: str, number: int = signal.SIGKILL) -> int:
        """Signal those of its processes whose title or path holds something; how many there were."""
        found = [each for each in processes_below(self.process.pid) if title in each.words]
        for each in found:
            each.signal(number)
        return len(found)

    def close(self) -> None:
        """Leave nothing behind."""
        kill(processes_below(self.process.pid))
        self.process.kill()
        self.process.wait()
        self._said.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Run]]:
    """Starts runs, of which nothing is left behind."""
    runs: list[Run] = []

    def start(*args: Any, **env: str) -> Run:
        runs.append(Run(*args, **env))
        return runs[-1]

    yield start
    for each in runs:
        each.close()


def test_workers_killed_again_and_again_while_they_start(
    media: Path, tmp_path: Path, run: Callable[..., Run]
) -> None:
    config = images_only(media, tmp_path, "SlowlyUnpickledColor")
    going = run(config, tmp_path)
    code, said = going.ends(200, lambda: going.kill("ray::Worker"))
    assert code == 3, said
    assert (
        "EnvironmentFault: 3 workers in a row died before they worked; of the last one: its process" in said
    )
    assert "Traceback" not in said
    assert not list((tmp_path / "out").glob("ledger/*/*/*"))


def test_workers_that_never_start(media: Path, tmp_path: Path, run: Callable[..., Run]) -> None:
    config = images_only(media, tmp_path, "SlowlyUnpickledColor", start_timeout_s=4.0)
    code, said = run(config, tmp_path).ends(200)
    assert code == 3, said
    assert "not started after 4 s: killing the worker" in said
    assert (
        "EnvironmentFault: 3 workers in a row died before they worked; of the last one: not started" in said
    )


@pytest.mark.parametrize("title", ["raylet/raylet", "DashboardAgent", "RuntimeEnvAgent", "gcs_server"])
def test_run_ends_with_a_sentence_when_ray_itself_is_killed(
    media: Path, tmp_path: Path, run: Callable[..., Run], title: str
) -> None:
    config = images_only(media, tmp_path, "HungColor")
    going = run(config, tmp_path, CURATION_TEST_CALLS=str(tmp_path / "mark"))
    going.wait_for(tmp_path / "mark")
    assert going.kill(title) == 1
    code, said = going.ends(150)
    assert code == 3, said
    silent = "the head of the Ray cluster has not answered for 30 s (was it killed?)"
    ended = "Ray on this machine has ended: its raylet or an agent of it was killed"
    assert (silent if title == "gcs_server" else ended) in said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").glob("ledger/*/*/*"))


def test_run_ends_although_its_raylet_is_stopped(
    media: Path, tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray waits for ever for its answer, even to disconnect. Whoever needs no raylet may finish the work."""
    config = images_only(media, tmp_path, "NotingColor", start_timeout_s=20.0, unit_images=1)
    going = run(config, tmp_path, CURATION_TEST_CALLS=str(tmp_path / "calls"))
    going.wait_for(tmp_path / "calls")
    assert going.kill("raylet/raylet", signal.SIGSTOP) == 1
    code, said = going.ends(240)
    assert code in (0, 3), said
    assert "Traceback" not in said
    assert (code == 0) == ("report:" in said)


def idle_workers(number: int) -> list[int]:
    """Process ids of workers, once so many have started; one can do all the work before another has."""
    deadline = time.monotonic() + 60
    while True:
        found = [each.pid for each in processes_below(os.getpid()) if "ray::Worker" in each.words]
        if len(found) == number:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_idle_workers_that_are_killed_are_replaced_and_nobody_is_blamed(media: Path, tmp_path: Path) -> None:
    data = {
        "name": "faults",
        "input": [str(media)],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["color"]},
        "run": {"workers": 2, "unit_images": 1},
    }
    bench = Bench(data)
    said: list[str] = []
    progress = ConsoleProgress(console())
    progress.say = said.append  # type: ignore[method-assign]
    with Pool(bench.pipeline, bench.ledger, None, progress) as pool:
        pool.do(bench.tasks("probe"))
        for pid in idle_workers(2):
            os.kill(pid, signal.SIGKILL)
        time.sleep(1.5 * FRESH_S)
        pool.do(bench.tasks("filter"))
    assert [line for line in said if line.startswith("a worker died before it worked")]
    assert not [line for line in said if "killed its worker" in line or "died on unit" in line]
    found = bench.outcomes()
    for name, (outcome, _) in FINE.items():
        assert found[name].startswith(outcome)


def test_memory_monitor_that_kills_every_worker_ends_the_run_with_a_sentence(
    media: Path, tmp_path: Path, run: Callable[..., Run]
) -> None:
    """The threshold of this run's own Ray is less than what any machine uses."""
    config = images_only(media, tmp_path, "SlowlyUnpickledColor")
    env = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    code, said = run(config, tmp_path, **env).ends(200)
    assert code == 3, said
    assert "of the last one: Ray's memory monitor killed it" in said
    assert "Traceback" not in said
