"""What workers did, as numbers that can be summed up: rows, seconds, frames, bytes, busy and idle time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

DECODE = "decode"
"""Name of the decode workers among the pools."""

Cause = Literal["same bytes", "other bytes", "other metadata", "failed before", "recompute"]
"""Why something was read or measured that the ledger knew already."""


@dataclass
class PoolMetrics:
    """What the workers of one kind did in a pass.

    Attributes:
        num_workers: How many there were, at most.
        nodes: Name of a node -> how many it had, at most; of decode workers alone.
        load_s: Seconds for imports and weights, of all of them.
        load_cpu_s: CPU seconds for it; of decode workers, those of their start, too.
        pass_s: Seconds of the passes that they were there for.
        gpu_s: Seconds of a GPU that were held for them, a share of a card for that share of its seconds; of
            decode workers, for the services of the pass.
        busy_s: Seconds in which they worked, of all of them.
        idle_s: Seconds in which they had nothing to do.
        waited_s: Seconds in which decode workers waited for them; of decode workers, for all model workers.
        num_calls: Calls that they answered.
        num_samples: Samples in these calls.
        bytes_sent: Bytes of pixels that were sent to them.
        most_bytes_out: The most that one decode worker had sent them at a time without an answer.
        peak_memory_bytes: The most that one of them held of a GPU.
    """

    num_workers: int = 0
    nodes: dict[str, int] = field(default_factory=dict)
    load_s: float = 0.0
    load_cpu_s: float = 0.0
    pass_s: float = 0.0
    gpu_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0
    waited_s: float = 0.0
    num_calls: int = 0
    num_samples: int = 0
    bytes_sent: int = 0
    most_bytes_out: int = 0
    peak_memory_bytes: int = 0

    def add(self, other: PoolMetrics) -> None:
        """Sum up; of what is a maximum, take the larger."""
        self.nodes = dict(Counter(self.nodes) | Counter(other.nodes))
        for item in fields(self):
            if item.name == "nodes":
                continue
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            is_most = item.name in ("num_workers", "most_bytes_out", "peak_memory_bytes")
            setattr(self, item.name, max(mine, theirs) if is_most else mine + theirs)


@dataclass(frozen=True)
class SpentTime:
    """Time that something took, and the CPU time of this process in it, in seconds."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: SpentTime) -> SpentTime:
        return SpentTime(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def __sub__(self, other: SpentTime) -> SpentTime:
        return SpentTime(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)

    @staticmethod
    def now() -> SpentTime:
        """The clocks as they stand: what is measured is the difference of two."""
        return SpentTime(time.perf_counter(), time.process_time())


@dataclass
class Metrics:
    """What a worker did: rows, failed rows and seconds by step key, and frames decoded by pass.

    `frames_held` counts the frames that the sources of the filter pass hold, so that decoded / held
    says how often each was decoded. `bytes_stored` counts by pass the bytes of the sources that were
    opened, each source once, and `bytes_read` what was fetched of them, so that read / stored says how
    often. `usage` is what the stages say about themselves, by step key, and `pools` what each kind of
    workers did: decode workers, and model workers by group. `causes` counts what the ledger knew before:
    sources that were read again, and rows that were measured again, by step key.
    `gpu_s` sums up, over the passes that had something on a GPU, their seconds times the cluster's GPUs.
    `spent_s` is the time that decode workers took, loading apart, by pass and kind of source.
    """

    rows: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    frames_decoded: Counter[str] = field(default_factory=Counter)
    images_decoded: Counter[str] = field(default_factory=Counter)
    frames_held: int = 0
    bytes_read: Counter[str] = field(default_factory=Counter)
    bytes_stored: Counter[str] = field(default_factory=Counter)
    usage: dict[str, Counter[str]] = field(default_factory=dict)
    pools: dict[str, PoolMetrics] = field(default_factory=dict)
    causes: Counter[tuple[str, Cause]] = field(default_factory=Counter)
    gpu_s: float = 0.0
    spent_s: dict[tuple[str, str], SpentTime] = field(default_factory=dict)

    def pool(self, name: str) -> PoolMetrics:
        """The metrics of a kind of workers."""
        return self.pools.setdefault(name, PoolMetrics())

    def record(self, key: str, *, rows: int = 0, failed: int = 0, seconds: float = 0.0) -> None:
        """Count rows of a step, and the time they took."""
        if rows:
            self.rows[key] += rows
        if failed:
            self.failed[key] += failed
        self.seconds[key] = self.seconds.get(key, 0.0) + seconds

    def add(self, other: Metrics) -> None:
        """Sum up."""
        for key in other.seconds:
            self.record(key, rows=other.rows[key], failed=other.failed[key], seconds=other.seconds[key])
        self.frames_decoded.update(other.frames_decoded)
        self.images_decoded.update(other.images_decoded)
        self.frames_held += other.frames_held
        self.bytes_read.update(other.bytes_read)
        self.bytes_stored.update(other.bytes_stored)
        for key, used in other.usage.items():
            self.record_usage(key, used)
        for name, pool in other.pools.items():
            self.pool(name).add(pool)
        self.causes.update(other.causes)
        self.gpu_s += other.gpu_s
        for (phase, kind), spent in other.spent_s.items():
            self.spend(phase, kind, spent)

    def spend(self, phase: str, kind: str, spent: SpentTime) -> None:
        """Count time that decode workers took for sources of a kind in a pass."""
        known = self.spent_s.get((phase, kind), SpentTime())
        self.spent_s[phase, kind] = known + spent

    def record_usage(self, key: str, used: Mapping[str, float]) -> None:
        """Sum up what a stage says that measuring took."""
        if used:
            total = self.usage.setdefault(key, Counter())
            for name, number in used.items():
                total[name] += number  # type: ignore[assignment]  # a Counter of floats is one all the same
