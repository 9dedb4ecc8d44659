"""What Ray costs: CPU seconds of the same units by a run's one worker, over a plain loop, start-up apart."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.decode_once import write_video
from benchmarks.measure import family_cpu_s
from curation.config import parse_config
from curation.execution.plan import filters_of_new, plan_probes
from curation.execution.worker.worker import UnitWorker
from curation.ingest.listing import list_inputs
from curation.ledger import Ledger
from curation.ledger.present import remember_listing
from curation.pipeline import build_pipeline
from curation.storage import open_storage

NUM_VIDEOS = 8
"""One a unit, of ten seconds; measured for scenes, motion and color."""
ROUNDS = 3
POLL_S = 0.02


@dataclass(frozen=True)
class Spent:
    """Of a command: seconds and CPU seconds until its first unit, CPU seconds from there to the last one."""

    first_s: float
    first_cpu_s: float
    work_cpu_s: float


def ratio() -> float:
    """CPU seconds from the first unit to the last, the least of each way; prints what start-up takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_media(folder / "in")
        ways = [["curation", "run", "-c"], ["benchmarks.start_up"]]
        rounds = [[_spent(folder, way) for way in ways] for _ in range(ROUNDS)]
    with_ray, loop = zip(*rounds, strict=True)
    for name, way in (("a run", with_ray), ("a plain loop", loop)):
        first_s, first_cpu_s = min(spent.first_s for spent in way), min(spent.first_cpu_s for spent in way)
        print(f"      {name}: first unit after {first_s:.1f} s and {first_cpu_s:.1f} CPU s")
    return min(spent.work_cpu_s for spent in with_ray) / min(spent.work_cpu_s for spent in loop)


def write_media(folder: Path) -> None:
    """The same video, several times."""
    folder.mkdir()
    write_video(folder / "0.mp4", num_scenes=3)
    for number in range(1, NUM_VIDEOS):
        shutil.copy(folder / "0.mp4", folder / f"{number}.mp4")


def _spent(folder: Path, way: list[str]) -> Spent:
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "c.yaml").write_text(yaml.safe_dump(_settings(folder)))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *way, str(folder / "c.yaml")],
        stdout=subprocess.DEVNULL,
    )
    _wait_for_units(folder / "out", process, 1)
    first_s, first_cpu_s = time.monotonic() - began, family_cpu_s(process.pid)
    _wait_for_units(folder / "out", process, NUM_VIDEOS)
    work_cpu_s = family_cpu_s(process.pid) - first_cpu_s
    process.wait()
    return Spent(first_s, first_cpu_s, work_cpu_s)


def _settings(folder: Path) -> dict[str, object]:
    return {
        "name": "start_up",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "videos": {"filters": ["flow", "color"], "flow": {"min_score": 0.0, "max_score": None}},
        "run": {"workers": 1, "unit_videos": 1, "segment_s": None, "report_samples": 0},
    }


def _wait_for_units(output: Path, process: subprocess.Popen[bytes], number: int) -> None:
    while len(list(output.glob("ledger/flow/*/unit-*"))) < number:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}")
        time.sleep(POLL_S)


def _loop(config_file: str) -> None:
    """What a run's worker does, without Ray. Waits a moment at its end, to be measured."""
    config = parse_config(yaml.safe_load(Path(config_file).read_text()))
    pipeline = build_pipeline(config)
    ledger = Ledger(open_storage(config.general.output))
    listing = list_inputs(config)
    remember_listing(ledger.storage, listing.sources)
    worker = UnitWorker(pipeline)
    filters = filters_of_new(pipeline, {step.key for step in pipeline.steps()})
    for task in plan_probes(ledger, listing, config, filters=filters):
        worker.work(task)
    time.sleep(1)


if __name__ == "__main__":
    _loop(sys.argv[1])
