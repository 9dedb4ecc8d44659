"""The supervisor of a run's own Ray: what it ends, and what it leaves alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray

from curation.execution.cluster.joining import supervisor
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.joining.supervisor import MARK, processes_of

SLEEP = [sys.executable, "-c", "import sys, time; print('up', flush=True); time.sleep(600)"]
HOLD = "import sys, time; file = open(sys.argv[1], sys.argv[2]); print('up', flush=True); time.sleep(600)"


class Spawn:
    """Starts processes, and ends those that are left at the end of a test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, command: list[str], **variables: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        return process

    def up(self, command: list[str], **variables: str) -> subprocess.Popen[bytes]:
        process = self(command, **variables)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    with ExitStack() as stack:
        yield Spawn(stack)


def test_ends_what_belongs_to_the_folder_and_nothing_else(spawn: Spawn, tmp_path: Path) -> None:
    folder = tmp_path / "ray-1"
    folder.mkdir()
    (folder / "log").write_text("")
    (tmp_path / "ray-11").write_text("")
    marked = spawn.up(SLEEP, **{MARK: str(folder)})
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    stubborn = spawn.up([*SLEEP[:2], ignoring + SLEEP[2]], **{MARK: str(folder)})
    stopped = spawn.up(SLEEP, **{MARK: str(folder)})
    stopped.send_signal(signal.SIGSTOP)
    writer = spawn.up([sys.executable, "-c", HOLD, str(folder / "log"), "w"])
    left = [
        spawn.up([sys.executable, "-c", HOLD, str(folder / "log"), "r"]),  # someone reads the log
        spawn.up([sys.executable, "-c", HOLD, str(tmp_path / "ray-11"), "w"]),
        spawn.up(SLEEP, **{MARK: str(folder) + "1"}),
        spawn.up(SLEEP, OTHER=str(folder)),
    ]
    run = spawn.up(SLEEP, **{MARK: str(folder)})  # it may go on after it has ended its Ray
    watching = spawn([sys.executable, supervisor.__file__, str(folder), str(run.pid)])
    time.sleep(0.5)
    assert all(process.poll() is None for process in (marked, stubborn, stopped, writer, *left, run))
    assert watching.stdin is not None
    watching.stdin.close()
    watching.stdin = None
    assert watching.wait(20) == 0
    ended = [process.wait(1) for process in (marked, stubborn, stopped, writer)]
    assert ended == [-signal.SIGKILL] * 4
    assert all(process.poll() is None for process in (*left, run))
    assert not folder.exists()


@pytest.mark.slow
def test_own_ray_starts_no_more_than_it_needs_and_leaves_our_signals_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    before = dict(os.environ)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        ours = signal.getsignal(signal.SIGTERM)
        connection = connect(None, 2)
        try:
            assert signal.getsignal(signal.SIGTERM) is ours
            assert MARK not in os.environ
            folder = Path(ray._private.worker._global_node.get_session_dir_path()).parent
            lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in processes_of(str(folder))]
            assert any("gcs_server" in line for line in lines)
            assert not [line for line in lines if "monitor.py" in line or "dashboard.py" in line]
        finally:
            connection.close()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert not folder.exists()
    assert [pid for pid in processes_of(str(folder)) if pid != os.getpid()] == []
    assert before.items() <= dict(os.environ).items()
