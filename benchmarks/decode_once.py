"""A video decoded for scenes, text, flow and aesthetic each, over decoded once for all of them."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.measure import cpu_ratio
from curation.media.decode import decode_video
from curation.media.views import GridCollector
from curation.stage import View

SCENES = View(fps=24, short_side=144)
VIEWS = [View(fps=2, short_side=256), View(fps=2, short_side=224), View(count=3, short_side=256)]


def ratio() -> float:
    """CPU time of four decodes over that of one, 720p H.264, 10 s."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.mp4"
        write_video(path)
        return cpu_ratio(
            lambda: [_collect(path, [view]) for view in (SCENES, *VIEWS)],
            lambda: _collect(path, [SCENES, *VIEWS]),
        )


def _collect(path: Path, views: list[View]) -> None:
    collector = GridCollector(views)
    for frame in decode_video(path):
        collector.push(frame)


def write_video(path: Path, *, num_scenes: int = 1) -> None:
    """Ten seconds of textures that move, 1280 x 720 at 24 FPS, in scenes of equal length."""
    random = np.random.default_rng(0)
    textures = [
        random.integers(base, base + 16, (90, 160, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        for base in (100, 10, 190)
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(240):
            texture = textures[index * num_scenes // 240]
            frame = av.VideoFrame.from_ndarray(np.roll(texture, 3 * index, axis=1), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
