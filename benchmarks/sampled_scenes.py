"""Scenes found on every frame, over found on two frames a second and refined where those differ."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.decode_once import write_video
from benchmarks.measure import cpu_ratio
from curation.media.decode import decode_video
from curation.media.probe import probe
from curation.records import Source
from curation.splitter import Span
from curation.stage import Setup
from stages.scenes import ScenesConfig, ScenesSplitter


def ratio() -> float:
    """CPU time of native over sampled detection, decoding included, 720p H.264, 10 s with two cuts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.mp4"
        write_video(path, num_scenes=3)
        native, sampled = (ScenesConfig(sample_fps=rate) for rate in ("native", 2.0))
        if len(_split(path, native)) != 3 or _split(path, native) != _split(path, sampled):
            raise RuntimeError("the two ways find other cuts")
        return cpu_ratio(lambda: _split(path, native), lambda: _split(path, sampled))


def _split(path: Path, config: ScenesConfig) -> list[Span]:
    source = probe(Source(source_id="s", uri=str(path), kind="video", size_bytes=1, etag="e"), path)
    stage = ScenesSplitter(config)
    stage.setup(Setup("cpu", {}))
    finder = stage.start(source)
    spans = [span for frame in decode_video(path) for span in finder.push(frame)]
    return [*spans, *finder.finish(10.0)]
