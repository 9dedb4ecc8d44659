"""scenedetect's command line and one decode per further stage, over one pass for all of them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import av

from benchmarks.decode_once import write_video
from benchmarks.measure import cpu_medians
from curation.media.decode import decode_video
from curation.media.probe import probe
from curation.media.views import GridCollector
from curation.records import Source
from curation.stage import Setup, View
from curation.stages.scenes import ScenesConfig, ScenesSplitter

VIEWS = {
    "text": View(fps=2, short_side=256),
    "flow": View(fps=2, short_side=256),
    "aesthetic": View(count=3, short_side=256),
}
SCENES = ScenesConfig(sample_fps=2.0, short_side=256)


def ratio() -> float:
    """CPU time, children included; also prints the pass against bare decoding to a short side of 256."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.mp4"
        write_video(path, num_scenes=3)
        ways = [partial(way, path) for way in (_apart, _one_pass, _bare)]
        apart_s, pass_s, bare_s = cpu_medians(*ways)
    print(f"      the pass over bare decoding to a short side of 256: {pass_s / bare_s:.2f}")
    return apart_s / pass_s


def _apart(path: Path) -> None:
    command = [sys.executable, "-m", "scenedetect", "-q", "-i", str(path), "-b", "pyav"]
    subprocess.run([*command, "detect-content", "detect-threshold"], check=True, capture_output=True)
    for view in VIEWS.values():
        collector = GridCollector([view])
        for frame in decode_video(path):
            collector.push(frame)


def _one_pass(path: Path) -> None:
    source = probe(Source(source_id="s", uri=str(path), kind="video", size_bytes=1, etag="e"), path)
    stage = ScenesSplitter(SCENES)
    stage.setup(Setup("cpu", {}))
    finder, collector = stage.start(source), GridCollector(VIEWS.values())
    spans = []
    for frame in decode_video(path):
        collector.push(frame)
        spans += finder.push(frame)
    spans += finder.finish(10.0)
    if len(spans) != 3:
        raise RuntimeError(f"{len(spans)} scenes")


def _bare(path: Path) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for frame in container.decode(stream):
            frame.reformat(width=456, height=256, format="rgb24").to_ndarray()
