"""Numbers of a run while it goes on, for Prometheus: Ray's agent on the driver's node serves them.

    exported = ExportedMetrics("demo")
    exported.begin("filter", 120)
    exported.measured(metrics)              # after each call of a worker
    exported.stand(num_open=20, num_busy=8, num_workers=8)

Ray puts `ray_` before each name, and `_total` behind those of counters. `deploy/grafana.json` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curation.execution.worker.metrics import DECODE, Metrics


class ExportedMetrics:
    """Counters and gauges of one run. Ray must have been started."""

    def __init__(self, dataset: str) -> None:
        """`dataset` is the name in the configuration: a label of every number."""
        self._labels = {"dataset": dataset}
        self._pass = ""
        self._rows = self._counter("rows", "Rows that were measured.", "step")
        self._failed = self._counter("failed_rows", "Rows that failed.", "step")
        self._seconds = self._counter("step_seconds", "Seconds that measuring took, of all workers.", "step")
        self._read = self._counter("bytes_read", "Bytes that were fetched of sources.", "pass")
        self._stored = self._counter("bytes_stored", "Bytes of the sources that were opened.", "pass")
        self._pool = self._counter("pool_seconds", "Seconds of all workers of a pool.", "pool", "state")
        self._total = self._gauge("requests", "Requests of this pass: units, or parts of them.", "pass")
        self._done = self._gauge("requests_done", "Those of them that are done.", "pass")
        self._waiting = self._gauge("requests_waiting", "Those of them that no worker has.", "pass")
        self._workers = self._gauge("workers", "Decode workers.", "state")

    def begin(self, phase: str, num_requests: int) -> None:
        """A pass begins."""
        self._pass = phase
        self.stand(num_open=num_requests, num_requests=num_requests, num_busy=0, num_workers=0)

    def measured(self, metrics: Metrics) -> None:
        """A worker has measured so much more."""
        for step in metrics.seconds:
            for counter, number in (
                (self._rows, metrics.rows[step]),
                (self._failed, metrics.failed[step]),
                (self._seconds, metrics.seconds[step]),
            ):
                self._add(counter, number, {"step": step})
        for phase, number in metrics.bytes_read.items():
            self._add(self._read, number, {"pass": phase})
        for phase, number in metrics.bytes_stored.items():
            self._add(self._stored, number, {"pass": phase})
        for name, pool in metrics.pools.items():
            # What others waited for a pool is known to those who waited.
            state, seconds = ("busy", pool.busy_s) if name == DECODE else ("waited for", pool.waited_s)
            self._add(self._pool, seconds, {"pool": name, "state": state})

    def stand(self, *, num_open: int, num_requests: int, num_busy: int, num_workers: int) -> None:
        """How the pass stands: `num_open` requests wait or are under way, on `num_busy` workers."""
        tags = self._tags({"pass": self._pass})
        self._total.set(num_requests, tags)
        self._done.set(num_requests - num_open, tags)
        self._waiting.set(max(0, num_open - num_busy), tags)
        self._workers.set(num_busy, self._tags({"state": "busy"}))
        self._workers.set(num_workers - num_busy, self._tags({"state": "waiting"}))

    def _tags(self, labels: dict[str, str]) -> dict[str, str]:
        return self._labels | labels

    def _add(self, counter: Any, number: float, labels: dict[str, str]) -> None:
        if number > 0:  # a counter refuses to stand still
            counter.inc(number, self._tags(labels))

    @staticmethod
    def _counter(name: str, description: str, *labels: str) -> Any:
        from ray.util.metrics import Counter

        return Counter(f"curation_{name}", description, ("dataset", *labels))

    @staticmethod
    def _gauge(name: str, description: str, *labels: str) -> Any:
        from ray.util.metrics import Gauge

        return Gauge(f"curation_{name}", description, ("dataset", *labels))


def metrics_address() -> str | None:
    """Where Prometheus finds the numbers of this run; None where Ray's agent does not serve any."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return served_by(next((node for node in ray.nodes() if node["NodeID"] == own), {}))


def served_by(node: Mapping[str, Any]) -> str | None:
    """Address of a node's numbers; without `ray[default]` its port is -1, and nobody serves any."""
    port = node.get("MetricsExportPort", -1)
    return f"http://{node['NodeManagerAddress']}:{port}/metrics" if port > 0 else None
