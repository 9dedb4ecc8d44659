"""Process CPU time of two ways of doing the same, in turn, so that both see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def cpu_ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int = 3) -> float:
    """Median CPU seconds of `slow` over those of `fast`, after a warm-up of each."""
    slow()
    fast()
    pairs = [(_cpu_s(slow), _cpu_s(fast)) for _ in range(rounds)]
    slow_s, fast_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    return slow_s / fast_s


def _cpu_s(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before
