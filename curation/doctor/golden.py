"""Golden self-test: tiny media whose numbers are known beforehand, measured by the stages as in a run.

None of the expected numbers was copied from what this code gave. The picture has two halves of one color
each, so its numbers follow by hand from the formulas; the video is cut, and moves, as it was drawn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.config import Config, parse_config
from curation.doctor.finding import Finding
from curation.execution.plan import Phase, plan_pass, plan_probes
from curation.execution.worker.worker import UnitWorker
from curation.ingest.listing import list_inputs
from curation.ledger import Ledger
from curation.ledger.present import remember_listing
from curation.pipeline import Pipeline, build_pipeline
from curation.records import Row
from curation.storage import open_storage

ONE, OTHER = (200, 100, 40), (40, 100, 200)
"""RGB of the picture's halves."""
SIDE = 128
WIDTH, HEIGHT, FPS, SCENE_FRAMES = 256, 192, 2, 6
MOVE_PX = 8
"""How far the second scene moves from frame to frame; the flow stage looks at 2 frames a second."""


@dataclass(frozen=True)
class GoldenNumber:
    """A number that a stage should come to, and by how much it may be off."""

    step: str
    column: str
    values: tuple[float, ...]
    tolerance: float


EXPECTED = (
    GoldenNumber("images.resolution", "width", (SIDE,), 0),
    GoldenNumber("images.resolution", "height", (SIDE,), 0),
    # Opponent channels of the halves: r - g 100 and -60, (r + g) / 2 - b 110 and -130. So means 20 and -10,
    # spreads 80 and 120: sqrt(80^2 + 120^2) + 0.3 sqrt(20^2 + 10^2).
    GoldenNumber("images.color", "colorfulness", (150.9302,), 0.01),
    GoldenNumber("images.color", "channel_spread", (160,), 0),
    GoldenNumber("images.color", "mean_luma", (108.26,), 0.01),  # 0.299 * 120 + 0.587 * 100 + 0.114 * 120
    # The second scene begins after six frames at two a second.
    GoldenNumber("videos.scenes", "start_s", (0.0, 3.0), 1e-6),
    GoldenNumber("videos.scenes", "end_s", (3.0, 6.0), 1e-6),
    # The first scene stands still; the second moves 8 of 192 pixels. Flow is an estimate: 10 % of that.
    GoldenNumber("videos.flow", "flow_score", (0.0, MOVE_PX / HEIGHT), 0.1 * MOVE_PX / HEIGHT),
)


def check_golden(config: Config | None) -> Iterator[Finding]:
    """What the stages measure of the golden media, beside what they should."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _measured(Path(folder))
    steps: dict[str, list[GoldenNumber]] = {}
    for one in EXPECTED:
        steps.setdefault(one.step, []).append(one)
    for step, expected in steps.items():
        yield _finding(step.partition(".")[2], rows[step], expected)
    if config is not None:
        known = {step.partition(".")[2] for step in steps}
        others = sorted({choice.stage.name for choice in config.choices()} - known)
        if others:
            yield Finding("self-test", "ok", f"no expected numbers for {', '.join(others)}")


def _finding(stage: str, rows: Sequence[Row], expected: Sequence[GoldenNumber]) -> Finding:
    check = f"self-test {stage}"
    told, is_right = [], True
    for one in expected:
        values = [float(row.values[one.column]) for row in rows if row.ok]
        is_right &= _agree(values, one)
        told.append(f"{one.column} {_shown(values)}, expected {_shown(one.values)}")
    if is_right:
        return Finding(check, "ok", "; ".join(told))
    errors = sorted({row.error for row in rows if row.error})
    advice = "this installation measures something else: reinstall it, or report what this says"
    return Finding(check, "failed", "; ".join([*told, *errors]), advice)


def _agree(values: Sequence[float], expected: GoldenNumber) -> bool:
    return len(values) == len(expected.values) and bool(
        np.allclose(values, expected.values, rtol=0, atol=expected.tolerance)
    )


def _shown(values: Sequence[float]) -> str:
    return " and ".join(f"{value:.6g}" for value in values) or "nothing"


def _measured(folder: Path) -> Mapping[str, list[Row]]:
    """Step -> its rows for the golden media, clips in order."""
    (folder / "in").mkdir()
    _write_picture(folder / "in/golden.png")
    _write_video(folder / "in/golden.mkv")
    config = parse_config(
        {
            "name": "golden",
            "input": [str(folder / "in")],
            "output": str(folder / "out"),
            "images": {"filters": ["resolution", "color"], "resolution": {"min_width": 1, "min_height": 1}},
            "videos": {"scenes": {}, "filters": ["flow"], "flow": {"min_score": None}},
        }
    )
    pipeline, ledger = build_pipeline(config), Ledger(open_storage(config.general.output))
    _run(config, pipeline, ledger)
    found = {}
    for step in pipeline.steps():
        rows = [row for unit in ledger.units() for row in ledger.rows(step.name, step.fingerprint, unit)]
        found[step.key] = rows
    starts = {row.sample_id: row.values["start_s"] for row in found["videos.scenes"] if row.ok}
    for rows in found.values():
        rows.sort(key=lambda row: starts.get(row.sample_id, 0.0))
    return found


def _run(config: Config, pipeline: Pipeline, ledger: Ledger) -> None:
    """Measure everything in this process."""
    listing = list_inputs(config)
    remember_listing(ledger.storage, listing.sources)
    worker, keys = UnitWorker(pipeline), {step.key for step in pipeline.steps()}
    for task in plan_probes(ledger, listing, config):
        worker.work(task)
    phase: Phase = "filter"
    for task in plan_pass(ledger, pipeline, phase, keys):
        worker.work(task)


def _write_picture(path: Path) -> None:
    from PIL import Image

    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[:, : SIDE // 2], pixels[:, SIDE // 2 :] = ONE, OTHER
    Image.fromarray(pixels).save(path)


def _write_video(path: Path) -> None:
    """Two scenes in FFV1, which loses nothing but chroma: one that stands still, one that moves sideways."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(2 * SCENE_FRAMES):
            frame = av.VideoFrame.from_ndarray(_frame(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _frame(number: int) -> NDArray[np.uint8]:
    """Frame of the video: waves that repeat after its width, so that what leaves on one side comes back."""
    is_second = number >= SCENE_FRAMES
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    x = x - (MOVE_PX * (number - SCENE_FRAMES) if is_second else 0)
    turn = 2 * np.pi / WIDTH
    waves = np.sin(4 * turn * x + 0.05 * y) + np.sin(7 * turn * x - 0.11 * y) + np.cos(0.13 * y + turn * x)
    gray = 128 + 35 * waves
    tint = (0.3, 0.7, 1.0) if is_second else (1.0, 0.6, 0.2)
    pixels: NDArray[np.uint8] = np.clip(gray[..., np.newaxis] * tint, 0, 255).astype(np.uint8)
    return pixels
