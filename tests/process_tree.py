"""Processes of this machine: what descends from one, what still lives, and ending it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROCESSES = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process. Its number may be given to another one when it has ended; number and start may not.

    Attributes:
        pid: Process id.
        started: When it started, in ticks since the machine did.
    """

    pid: int
    started: int

    @property
    def words(self) -> str:
        """Its command line, or the title that it has given itself; empty if it has ended."""
        try:
            return (
                (_PROCESSES / f"{self.pid}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
            )
        except OSError:
            return ""

    @property
    def lives(self) -> bool:
        """Whether it has not ended; one that nobody has waited for is no more than a number."""
        status = _status_of(self.pid)
        return status is not None and status.state != "Z" and status.started == self.started

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.lives:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def processes_below(*ancestors: int) -> set[Process]:
    """All descendants of processes that have not ended."""
    statuses = {pid: status for pid in _pids() if (status := _status_of(pid)) and status.state != "Z"}
    children: dict[int, list[int]] = {}
    for pid, status in statuses.items():
        children.setdefault(status.parent, []).append(pid)
    found, waiting = set[Process](), list(ancestors)
    while waiting:
        own = children.get(waiting.pop(), [])
        found |= {Process(pid, statuses[pid].started) for pid in own}
        waiting += own
    return found


def processes_with(variable: str, value: str) -> set[Process]:
    """Processes that have an environment variable. One that changed its title may have overwritten it."""
    mark = f"{variable}={value}".encode()
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            status = _status_of(pid)
            if status and mark in (_PROCESSES / f"{pid}/environ").read_bytes().split(b"\0"):
                found.add(Process(pid, status.started))
    return {process for process in found if process.lives}


def kill(processes: Iterable[Process]) -> None:
    """End processes, whatever they do."""
    for process in processes:
        process.signal(signal.SIGKILL)


@dataclass(frozen=True)
class _Status:
    state: str
    parent: int
    started: int


def _status_of(pid: int) -> _Status | None:
    try:
        words = (_PROCESSES / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Status(words[0], int(words[1]), int(words[19]))


def _pids() -> list[int]:
    return [int(folder.name) for folder in _PROCESSES.glob("[0-9]*")]
