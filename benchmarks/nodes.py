"""Units per second of a filter pass on two Ray nodes of one CPU each, over those on one; 720p videos."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster
from rich.console import Console

from benchmarks.decode_once import write_video
from benchmarks.measure import family_cpu_s
from curation.config import parse_config
from curation.execution.driver.pool import Pool
from curation.execution.plan import Task, plan_pass, plan_probes
from curation.execution.progress import ConsoleProgress
from curation.execution.worker.metrics import DECODE
from curation.ingest.listing import list_inputs
from curation.ledger import Ledger
from curation.ledger.present import remember_listing
from curation.ledger.unit_state import RecomputePolicy
from curation.pipeline import build_pipeline
from curation.storage import open_storage

NUM_VIDEOS = 16
"""One a unit, of ten seconds; measured for scenes, motion and color."""
ROUNDS = 3


@dataclass(frozen=True)
class Timed:
    """A pass: units per second, the part of the workers' time in which they worked, and CPU of all of Ray.

    Where others use the machine's cores, too, the last two say what the speed would be without them.
    """

    units_per_s: float
    busy_fraction: float
    unit_cpu_s: float


def ratio() -> float:
    """Median speed on two nodes over that on one, in turn; prints both, and what else the machine did."""
    with tempfile.TemporaryDirectory() as name:
        bench = _Bench(Path(name))
        try:
            rounds = [(bench.timed(1), bench.timed(2)) for _ in range(ROUNDS)]
        finally:
            bench.end()
    for number, way in enumerate(zip(*rounds, strict=True), start=1):
        speed, busy = _median([one.units_per_s for one in way]), _median([one.busy_fraction for one in way])
        print(f"      {number} node(s): {speed:.2f} units/s, workers busy {100 * busy:.0f} % of the time")
    alone = _median(
        [2 * two.busy_fraction / one.busy_fraction * one.unit_cpu_s / two.unit_cpu_s for one, two in rounds]
    )
    print(f"      ratio by busy and CPU time, as with cores to itself: {alone:.2f}")
    print(f"      load of the machine: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    return _median([two.units_per_s / one.units_per_s for one, two in rounds])


class _Bench:
    """A run on a cluster whose second node comes and goes."""

    def __init__(self, folder: Path) -> None:
        (folder / "in").mkdir()
        write_video(folder / "in/0.mp4", num_scenes=3)
        for number in range(1, NUM_VIDEOS):
            shutil.copy(folder / "in/0.mp4", folder / f"in/{number}.mp4")
        config = parse_config(_settings(folder))
        pipeline, self._ledger = build_pipeline(config), Ledger(open_storage(config.general.output))
        listing = list_inputs(config)
        remember_listing(self._ledger.storage, listing.sources)
        node = {"num_cpus": 1, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=node)
        self._second: object = None
        self._pipeline = pipeline
        self._pool = Pool(pipeline, self._ledger, self._cluster.address, ConsoleProgress(Console(quiet=True)))
        self._pool.do(plan_probes(self._ledger, listing, config))

    def timed(self, num_nodes: int) -> Timed:
        """Measure everything anew on so many nodes, once their workers have started and loaded."""
        if num_nodes == 2:
            self._second = self._cluster.add_node(num_cpus=1, include_dashboard=False)
        elif self._second is not None:
            self._cluster.remove_node(self._second)
        self._pool.do(self._tasks()[:2])
        while self._pool.attendance.most != num_nodes:
            self._pool.do(self._tasks()[:2])
        started, cpu_s = time.monotonic(), family_cpu_s(os.getpid())
        busy_s = self._pool.do(self._tasks()).pool(DECODE).busy_s
        seconds = time.monotonic() - started
        unit_cpu_s = (family_cpu_s(os.getpid()) - cpu_s) / NUM_VIDEOS
        return Timed(NUM_VIDEOS / seconds, busy_s / (num_nodes * seconds), unit_cpu_s)

    def _tasks(self) -> Sequence[Task]:
        steps = {step.key for step in self._pipeline.steps()}
        again = RecomputePolicy(frozenset(step.name for step in self._pipeline.steps()), only_failed=False)
        return plan_pass(self._ledger, self._pipeline, "filter", steps, recompute=again)

    def end(self) -> None:
        self._pool.__exit__()
        self._cluster.shutdown()


def _settings(folder: Path) -> dict[str, object]:
    return {
        "name": "nodes",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "videos": {"filters": ["flow", "color"], "flow": {"min_score": 0.0, "max_score": None}},
        "run": {"unit_videos": 1, "segment_s": None, "report_samples": 0},
    }


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
