"""Ends every process of a run's own Ray, however the run ended: python supervisor.py FOLDER PID

The run, process PID, holds the other end of this program's standard input. When that closes, SIGKILL of the
run included, the processes that Ray started below FOLDER are killed, and the folder is removed. Ray itself
ends most of them when its parent dies, but not its agents, nor a worker that is stopped or stuck. Stands
alone, so that it starts in no time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "CURATION_RAY"
"""Environment variable of the processes that Ray starts for a run: the run's folder."""
PROCESSES = Path("/proc")
POLL_S = 0.05
LIMIT_S = 30.0
"""A process that the kernel can't end, as one in a broken driver, is left to it after so long."""


def main(folder: str, run: int) -> None:
    """Wait for the end of the run, then end what belongs to the folder."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    give_up_at = time.monotonic() + LIMIT_S
    while kill_all(folder, spared={run, os.getpid()}) and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def kill_all(folder: str, spared: set[int]) -> int:
    """Kill the processes that belong to the folder; how many there were."""
    found = [pid for pid in processes_of(folder) if pid not in spared]
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def processes_of(folder: str) -> list[int]:
    """Processes that have the folder in their environment, or write files below it; none without /proc.

    Either alone misses some: Ray's Python processes change their titles, which can overwrite their
    environment, and what a worker starts may write elsewhere.
    """
    numbers = [int(process.name) for process in PROCESSES.glob("[0-9]*")]
    return [pid for pid in numbers if _is_marked(pid, folder) or _writes_below(pid, folder)]


def _is_marked(pid: int, folder: str) -> bool:
    try:
        variables = (PROCESSES / f"{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{MARK}={folder}".encode() in variables


def _writes_below(pid: int, folder: str) -> bool:
    try:
        return any(_is_written_below(file, folder) for file in (PROCESSES / f"{pid}/fd").iterdir())
    except OSError:
        return False


def _is_written_below(file: Path, folder: str) -> bool:
    """Whether an open file lies below the folder and may be written; who only reads a log is not Ray."""
    with contextlib.suppress(OSError):
        if file.readlink().is_relative_to(folder):
            _, _, flags = (file.parent.parent / "fdinfo" / file.name).read_text().partition("flags:")
            return bool(int(flags.split()[0], 8) & os.O_ACCMODE)
    return False


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
