"""A small dataset of generated media, a configuration for it, and the CLI as users run it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from curation.cli.app import main
from curation.config import Config, parse_config
from curation.execution.plan import Task, plan_listing, plan_pass, plan_probes
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import UnitWorker
from curation.ingest.inputs import find_inputs, unlisted_containers
from curation.ingest.listing import Listing, list_inputs
from curation.ledger import Ledger
from curation.ledger.present import remember_listing
from curation.ledger.unit_state import PROBE, RecomputePolicy
from curation.pipeline import Pipeline, build_pipeline
from curation.storage import open_storage
from one_by_one import scan_verdicts

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def write_video(path: Path, scenes: list[tuple[int, int]], *, size: int = 64, fps: int = 10) -> None:
    """A video of `scenes` (number of frames, color seed): noise of one hue that drifts to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = size * 2, size, "yuv420p"
        index = 0
        for number, seed in scenes:
            random = np.random.default_rng(seed)
            base = random.integers(40, 200, 3)
            texture = random.integers(0, 56, (size // 4, size // 2, 1)).repeat(4, 0).repeat(4, 1)
            for shift in range(number):
                pixels = (base + np.roll(texture, 2 * shift, axis=1)).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, fps)
                container.mux(stream.encode(frame))
                index += 1
        container.mux(stream.encode())


def write_photo(path: Path, seed: int, *, size: tuple[int, int] = (96, 80), gray: bool = False) -> None:
    """A smooth picture; with `gray`, without color."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 6, 1 if gray else 3)).astype(np.uint8)
    picture = Image.fromarray(small.repeat(3, 2) if gray else small).resize(size, Image.Resampling.BICUBIC)
    picture.save(path, quality=95)


def cut_off(path: Path) -> None:
    """Leave the first half of a file, as a transfer does that broke off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_photos(folder: Path, number: int, *, num_cut_off: int = 0) -> None:
    """Photos p0.jpg and so on in a new folder, the first of them cut off."""
    folder.mkdir()
    for place in range(number):
        write_photo(folder / f"p{place}.jpg", place)
        if place < num_cut_off:
            cut_off(folder / f"p{place}.jpg")


def write_media(folder: Path) -> Path:
    """Six photos, one of them cut off, one small, one gray; two videos; two files that are none."""
    folder.mkdir(parents=True)
    for seed in range(3):
        write_photo(folder / f"photo{seed}.jpg", seed)
    write_photo(folder / "gray.jpg", 7, gray=True)
    write_photo(folder / "small.jpg", 8, size=(30, 90))
    write_photo(folder / "cut_off.jpg", 9, size=(300, 300))
    cut_off(folder / "cut_off.jpg")
    write_video(folder / "two_scenes.mp4", [(30, 1), (30, 2)])
    write_video(folder / "long.mp4", [(210, 3)])
    (folder / "text.mp4").write_text("this is no video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("ignored")
    return folder


List = Callable[..., Listing]
"""Lists the input folder of a test, or others; tests/ingest/conftest.py."""


def write_vocabulary(path: Path) -> Path:
    """Ranks of the 256 single bytes: every text can be encoded."""
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)]
    path.write_text("".join(lines))
    return path


def config_data(media: Path, output: Path, vocabulary: Path, **changes: Any) -> dict[str, Any]:
    """Every kind of step, with stand-ins, small enough for tests."""
    data: dict[str, Any] = {
        "name": "small",
        "input": [str(media)],
        "output": str(output),
        "stand_ins": "allow",
        "images": {
            "filters": ["resolution", {"any_of": ["aesthetic", {"all_of": ["color", "text"]}]}],
            "resolution": {"min_width": 64, "min_height": 64},
            "aesthetic": {"weights": "stand-in", "head": "stand-in", "head_sha256": None, "min_score": 9.9},
        },
        "videos": {
            "scenes": {"min_clip_s": 0.5},
            "filters": ["flow", "color"],
            "flow": {"min_score": 0.0, "max_score": None},
            "color": {"min_untinted_colorfulness": None},  # the videos are of one hue each
        },
        "captions": {"engine": "stand-in"},
        "tokens": {"weights": "stand-in", "area": 4096, "fps": 1, "max_frames": 8},
        "shards": {"vocabulary": str(vocabulary), "shard_bytes": 1000},
        "run": {
            "unit_images": 4,
            "unit_videos": 1,
            "workers": 2,
            "max_failed_fraction": 0.9,
            "report_samples": 0,
        },
    }
    return data | changes


def built(data: dict[str, Any]) -> tuple[Config, Pipeline]:
    """The configuration and its pipeline."""
    config = parse_config(data)
    return config, build_pipeline(config)


class Bench:
    """An output folder, and runs on it without Ray."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.config, self.pipeline = built(data)
        self.ledger = Ledger(open_storage(self.config.general.output))

    def tasks(self, phase: Any, recompute: RecomputePolicy | None = None) -> list[Task]:
        recompute = recompute or RecomputePolicy()
        if phase == "list":
            found = find_inputs(self.config)
            retry_failed = recompute.counts_as_missing(PROBE, row_failed=True)
            return plan_listing(unlisted_containers(self.config, found, retry_failed=retry_failed))
        if phase == "probe":
            listing = list_inputs(self.config)
            remember_listing(self.ledger.storage, listing.sources)
            return plan_probes(self.ledger, listing, self.config, recompute=recompute)
        steps = {step.key for step in self.pipeline.steps()}
        return list(plan_pass(self.ledger, self.pipeline, phase, steps, recompute=recompute))

    def run(self, recompute: RecomputePolicy | None = None) -> Metrics:
        metrics = Metrics()
        worker = UnitWorker(self.pipeline)
        for phase in ("list", "probe", "filter", "enrich"):
            for task in self.tasks(phase, recompute):
                metrics.add(worker.work(task).metrics)
        return metrics

    def outcomes(self) -> dict[str, str]:
        return {
            judged.source.uri.rpartition("/")[
                2
            ]: f"{judged.verdict.outcome} {judged.verdict.reason or ''}".strip()
            for _, unit in scan_verdicts(self.ledger, self.pipeline)
            for judged in unit
        }

    def rows(self, key: str) -> dict[str, Any]:
        step = self.pipeline.step_of(key)
        assert step is not None
        units = self.ledger.measured_units(step.name, step.fingerprint)
        rows = [row for unit in units for row in self.ledger.rows(step.name, step.fingerprint, unit)]
        return {row.sample_id: (row.values, row.error) for row in rows}


def worked(data: dict[str, Any]) -> tuple[Pipeline, Ledger, Metrics]:
    """Everything measured by one worker in this process, and what it did."""
    bench = Bench(data)
    metrics = bench.run()
    return bench.pipeline, bench.ledger, metrics


def write_config(path: Path, data: dict[str, Any]) -> Path:
    """The configuration as a file."""
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def environment() -> dict[str, str]:
    """For commands: stages of the tests can be imported, and nothing is downloaded but from a stand-in."""
    places = os.pathsep.join(map(str, (ROOT, TESTS)))  # this checkout, whatever is installed
    offline = {} if "HF_ENDPOINT" in os.environ else {"HF_HUB_OFFLINE": "1"}
    return os.environ | {"PYTHONPATH": places, **offline}


def command(*args: str | Path) -> list[str]:
    """`curation` as a command of this environment."""
    return [sys.executable, "-m", "curation", *map(str, args)]


def curation(*args: str | Path, cwd: Path | None = None, code: int | None = 0) -> str:
    """Run `curation`, expect the exit code, return what it said."""
    done = subprocess.run(
        command(*args), capture_output=True, text=True, env=environment(), cwd=cwd, timeout=300, check=False
    )
    said = done.stdout + done.stderr
    assert code is None or done.returncode == code, f"exit {done.returncode}\n{said}"
    return said


def said_by(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str]:
    """Exit code of a command in this process, and what it said; for those that need no Ray."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, args)])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out + said.err


def started(config: Path) -> subprocess.Popen[bytes]:
    """A run in a process group of its own, so that all of it can be killed."""
    return subprocess.Popen(
        command("run", "-c", config),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, except locks."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
