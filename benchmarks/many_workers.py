"""CPU time of the driver's loop per request with 256 workers, over that with 8; the work itself is asleep."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

NUMBERS = (8, 256)
REQUESTS_EACH = 8
WORK_S = 10.0
"""What a request takes on average; half to one and a half times as long, so that they end one by one."""


def ratio() -> float:
    """In a process each, with a Ray of its own; prints both."""
    found = []
    for number in NUMBERS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.many_workers", str(number)],
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(float(done.stdout.split()[-1]))
        print(f"      {number} workers: {found[-1]:.1f} ms of CPU per request")
    few, many = found
    return many / few


def _fake_workers() -> Callable[[Any], Any]:
    """Stand-ins for decode workers: two actors that answer for all of them, so that only the driver works."""
    import ray

    from curation.execution.worker.heartbeat import Beat
    from curation.execution.worker.metrics import Metrics

    @ray.remote(num_cpus=0, max_concurrency=1000)
    class Worker:
        async def work(self, task: Any, _: Any) -> Metrics:
            await asyncio.sleep(WORK_S * (0.5 + task.unit * 7919 % 1000 / 1000))
            return Metrics()

        async def beat(self) -> Beat:
            return Beat("a.mp4")

    worker_class: Any = Worker
    turns = itertools.cycle([worker_class.remote(), worker_class.remote()])
    return lambda _: next(turns)


def _driver_ms(number: int) -> float:
    """Milliseconds of CPU per request, once the workers have started."""
    import ray

    from curation.cli.console import console
    from curation.config.config import RunSettings
    from curation.execution.cluster.watch import ClusterState
    from curation.execution.driver.decode_workers import DecodeWorkers
    from curation.execution.progress import ConsoleProgress

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    workers = DecodeWorkers(RunSettings(), _fake_workers(), ConsoleProgress(console()), ClusterState)
    _loop(workers, number, number)
    before = time.process_time()
    _loop(workers, number, number * REQUESTS_EACH)
    return 1000 * (time.process_time() - before) / (number * REQUESTS_EACH)


def _loop(workers: Any, number: int, num_requests: int) -> None:
    """As `Pool.do`, without a ledger and a cluster."""
    from curation.execution.cluster.watch import ClusterState
    from curation.execution.driver.requests import Request
    from curation.execution.plan import Task

    pipeline: Any = object()
    waiting = [Request(Task("enrich", unit, num_sources=1)) for unit in range(num_requests)]
    num_open = num_requests
    workers.begin_pass()
    while num_open:
        workers.adjust(min(number, num_open), pipeline, ClusterState())
        for worker in workers.ready(pipeline) if waiting else ():
            worker.start(waiting.pop(), {})
            if not waiting:
                break
        workers.wait()
        for worker in workers.ended():
            workers.finish(worker)
            num_open -= 1


if __name__ == "__main__":
    print(_driver_ms(int(sys.argv[1])))
