"""CPU time of several ways of doing the same, in turn, so that all see the same machine."""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 3


def cpu_medians(*ways: Callable[[], object]) -> list[float]:
    """Median CPU seconds of each way, child processes included, after a warm-up of each."""
    for way in ways:
        way()
    rounds = [[_cpu_s(way) for way in ways] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def cpu_ratio(slow: Callable[[], object], fast: Callable[[], object]) -> float:
    """Median CPU seconds of `slow` over those of `fast`."""
    slow_s, fast_s = cpu_medians(slow, fast)
    return slow_s / fast_s


def high_water_bytes() -> int:
    """Peak memory of this program; getrusage would count the parent's that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _cpu_s(way: Callable[[], object]) -> float:
    before = _spent_s()
    way()
    return _spent_s() - before


def _spent_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def family_cpu_s(pid: int) -> float:
    """CPU seconds so far of a process and all below it, ended ones that were waited for included."""
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            number = int(stat.parent.name)
            children.setdefault(int(fields[1]), []).append(number)
            spent[number] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    total, family = 0.0, [pid]
    while family:
        member = family.pop()
        total += spent.get(member, 0.0)
        family += children.get(member, [])
    return total
