"""Damaged files: each one is read or fails with a SampleError; nothing crashes, hangs or piles up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mutated
import mutated_videos
from curation.errors import SampleError
from curation.report.summary.summary import summarize
from datasets_media import ROOT, Bench, config_data, environment
from one_by_one import scan_verdicts

NUMBER = 2000
FORMATS = {"jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heif", "ico", "ppm"}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process says that opens all of them; one that crashes or hangs says nothing."""
    command = [sys.executable, "-m", "mutated", tmp_path_factory.mktemp("mutated"), str(NUMBER)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=300, check=False, cwd=ROOT
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr[-4000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_damaged_image_is_read_or_fails_as_a_sample(said: dict[str, Any]) -> None:
    assert said["escaped"] == []
    assert sum(said["counts"].values()) == NUMBER


def test_the_damage_reaches_every_format_and_both_ends(said: dict[str, Any]) -> None:
    """Files that are all refused, or all read, would test nothing."""
    counts = said["counts"]
    assert {name.removeprefix("read ") for name in counts if name.startswith("read ")} == FORMATS
    assert counts["failed ProbeError"] > NUMBER / 20
    assert counts["failed DecodeError"] > NUMBER / 20


def test_memory_stays_flat(said: dict[str, Any]) -> None:
    """What is held after a quarter of them and at the end differs by less than 6 kB an image, about half of
    what each takes decoded; at no time is there more than eight copies of the largest image allowed, at four
    bytes a pixel.
    """
    early, late, most = said["bytes"]
    assert late - early < 8 * 2**20
    assert most - early < 8 * 4 * mutated.MAX_PIXELS


def test_undamaged_the_same_images_are_read(tmp_path: Path) -> None:
    for name, data in mutated.small_images().items():
        (tmp_path / name).write_bytes(data)
        assert mutated.outcome(tmp_path / name).startswith("read "), name


def test_damaged_images_go_through_a_run(vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, data in mutated.mutations(72, seed=1):
        (tmp_path / "in" / name).write_bytes(data)
    data = config_data(tmp_path / "in", tmp_path / "out", vocabulary)
    del data["captions"], data["tokens"], data["shards"]
    data["images"] = {
        "filters": ["resolution", "color", "thumbnail"],
        "resolution": {"min_width": 10, "min_height": 10},
    }
    bench = Bench(data | {"max_pixels": mutated.MAX_PIXELS})
    bench.run()
    summary = summarize(bench.ledger, bench.pipeline)
    totals = summary.outcome_totals()["image sources"]
    assert totals["in"] == 72 == totals["kept"] + totals["rejected"] + totals["failed"]
    assert totals["kept"] > 5
    errors = Counter(
        judged.verdict.reason
        for _, unit in scan_verdicts(bench.ledger, bench.pipeline)
        for judged in unit
        if judged.verdict.outcome == "failed"
    )
    assert errors.total() == totals["failed"] > 20
    assert set(errors) <= {"ProbeError", "DecodeError", "UnsupportedMediaError"}


# Videos, through a worker: probing, cuts, flow and thumbnails

NUM_VIDEOS = 1000


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> mutated_videos.Findings:
    """What became of damaged videos; beside those made here, small real ones where they are at hand."""
    more = ROOT / "../shared/data/video"
    return mutated_videos.run(
        tmp_path_factory.mktemp("videos"), NUM_VIDEOS, more.resolve() if more.is_dir() else None
    )


def test_each_damaged_video_is_measured_or_fails_as_a_source(videos: mutated_videos.Findings) -> None:
    assert videos.escaped == []
    assert videos.crashed == []
    assert sum(videos.counts.values()) == NUM_VIDEOS
    kinds = {kind for outcome in videos.counts for kind in outcome.split()}
    assert kinds <= {"ok", "failed", *(error.__name__ for error in SampleError.__subclasses__())}


def test_the_damage_reaches_decoders_and_leaves_some_videos_whole(videos: mutated_videos.Findings) -> None:
    assert videos.counts["ok"] > NUM_VIDEOS / 10
    assert videos.counts["failed ProbeError"] > NUM_VIDEOS / 20
    assert videos.counts["failed DecodeError"] > NUM_VIDEOS / 20


def test_videos_do_not_pile_up(videos: mutated_videos.Findings) -> None:
    """Of each, less is kept than it takes decoded: 30 frames of 128 x 96 pixels are a megabyte."""
    late = videos.held_bytes[-1] - videos.held_bytes[len(videos.held_bytes) // 4]
    assert late < 100_000 * NUM_VIDEOS


def test_undamaged_the_same_videos_are_measured(tmp_path: Path) -> None:
    line = mutated_videos.Line(tmp_path)
    for name, data in mutated_videos.small_videos().items():
        (tmp_path / name).write_bytes(data)
        assert line.outcome(tmp_path / name) == ("ok", []), name
