"""Peak memory of the filter pass over a two-hour video, over that for two minutes of the same."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.measure import high_water_bytes
from curation.config import parse_config
from curation.execution.plan import plan_pass, plan_probes
from curation.execution.worker.worker import UnitWorker
from curation.ingest.listing import list_inputs
from curation.ledger import Ledger
from curation.pipeline import build_pipeline
from curation.storage import open_storage

FPS = 8
SCENE_S = 20


def ratio() -> float:
    """Each length in a process of its own."""
    short, long = (_peak_bytes(seconds) for seconds in (120, 7200))
    print(f"      2 minutes: {short / 1e6:.0f} MB, 2 hours: {long / 1e6:.0f} MB")
    return long / short


def _peak_bytes(seconds: int) -> int:
    command = [sys.executable, "-m", "benchmarks.flat_memory", str(seconds)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _filter(seconds: int) -> None:
    """Write a video with a cut every 20 s, filter it, print this process's peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        _write(Path(folder) / "in/v.mp4", seconds)
        config = parse_config(
            {
                "name": "flat",
                "input": [f"{folder}/in"],
                "output": f"{folder}/out",
                "videos": {
                    "scenes": {},
                    "filters": ["color", "flow"],
                    "color": {"min_untinted_colorfulness": None},
                    "flow": {"min_score": 0.0},
                },
            }
        )
        pipeline = build_pipeline(config)
        ledger = Ledger(open_storage(config.general.output))
        worker = UnitWorker(pipeline)
        for task in plan_probes(ledger, list_inputs(config), config):
            worker.work(task)
        for task in plan_pass(ledger, pipeline, "filter", {step.key for step in pipeline.steps()}):
            # One process does all segments of the long one, which in a run would have several.
            results = [worker.process_segment(task, number)[1] for number in range(len(task.segments))]
            metrics = worker.merge(task, results) if results else worker.work(task).metrics
        if metrics.rows["videos.scenes"] < seconds // SCENE_S:
            raise RuntimeError(f"{metrics.rows['videos.scenes']} clips in {seconds} s")
    print(high_water_bytes())


def _write(path: Path, seconds: int) -> None:
    colors = np.array([[230, 60, 60], [60, 70, 90], [120, 240, 130]], np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "40"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        picture = np.empty(0, np.uint8)
        for index in range(seconds * FPS):
            if index % (SCENE_S * FPS) == 0:
                color = colors[index // (SCENE_S * FPS) % len(colors)]
                picture = np.broadcast_to(color, (180, 320, 3)).copy()
                picture[60:120, 100:220] = 255 - picture[60:120, 100:220]
            frame = av.VideoFrame.from_ndarray(np.roll(picture, index, axis=1), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    _filter(int(sys.argv[1]))
