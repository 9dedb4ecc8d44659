"""Odd videos in a run: sizes that change, HDR under each setting, and what the limit on pixels refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.execution.worker.worker import UnitWorker
from curation.report.tables.table import flat_table
from datasets_media import Bench, built
from generated import texture
from pictures_media import hdr_planes, write_changing, write_hdr


def data_of(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "odd",
        "input": [str(folder)],
        "output": str(output),
        "stand_ins": "allow",
        "videos": {"scenes": {"min_clip_s": 0.0}, "filters": ["thumbnail"]},
        "run": {"max_failed_fraction": 1.0, "segment_s": None},
    } | changes


def table(bench: Bench) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = flat_table(bench.ledger, bench.pipeline).to_pylist()
    return rows


def still(seed: int, num_frames: int, height: int = 96, width: int = 128) -> list[Any]:
    return [texture(height, width, seed=seed)] * num_frames


def test_the_number_of_sizes_stands_with_every_clip_and_with_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_changing(folder / "changing.mkv", [still(1, 30), still(2, 30, 48, 72), still(3, 30, 60, 80)])
    write_changing(folder / "plain.mkv", [still(4, 30)])
    bench = Bench(data_of(folder, tmp_path / "out"))
    bench.run()
    found: dict[str, list[tuple[str, int]]] = {}
    for row in table(bench):
        found.setdefault(row["uri"].rpartition("/")[2], []).append((row["level"], row["num_sizes"]))
        assert row["outcome"] == "kept"
        assert (row["width"], row["height"]) == (128, 96)
    assert found["plain.mkv"] == [("source", 1), ("sample", 1)]
    assert found["changing.mkv"][0] == ("source", 3)
    assert len(found["changing.mkv"]) > 1
    assert {number for _, number in found["changing.mkv"]} == {3}


def test_segments_of_a_video_put_their_sizes_together(tmp_path: Path) -> None:
    """In segments of 8 seconds no worker sees more than two of the four sizes; decoding is not repeated."""
    folder = tmp_path / "in"
    folder.mkdir()
    sizes = [(96, 128), (48, 72), (60, 80), (72, 96)]
    write_changing(folder / "a.mkv", [still(seed, 200, *size) for seed, size in enumerate(sizes)])
    rows = {}
    for segment_s in (None, 8.0):
        run = {"segment_s": segment_s, "max_failed_fraction": 1.0}
        bench = Bench(data_of(folder, tmp_path / f"out{segment_s}", run=run))
        worker = UnitWorker(bench.pipeline)
        for task in bench.tasks("probe"):
            worker.work(task)
        for task in bench.tasks("filter"):
            if task.segments:
                results = [worker.process_segment(task, number)[1] for number in range(len(task.segments))]
                assert max(len(item.codings) for item in results) < 4
                worker.merge(task, results)
            else:
                worker.work(task)
        rows[segment_s] = bench.rows("videos.scenes")
        assert {values["num_sizes"] for values, _ in rows[segment_s].values()} == {4}
    assert rows[None] == rows[8.0]


def test_what_is_too_large_fails_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_changing(folder / "growing.mkv", [still(1, 20, 48, 72), still(2, 20)])
    write_changing(folder / "large.mkv", [still(3, 5)])
    write_changing(folder / "small.mkv", [still(4, 20, 48, 72)])
    bench = Bench(data_of(folder, tmp_path / "out", max_pixels=48 * 72))
    bench.run()
    assert bench.outcomes() == {
        "growing.mkv": "failed DecodeError",
        "large.mkv": "failed ProbeError",
        "small.mkv": "kept",
    }
    errors = {row["error"] for row in table(bench) if row["error"]}
    assert all("more pixels than max_pixels: 3456 (128x96)" in error for error in errors)
    assert len(errors) == 2


@pytest.fixture
def hdr_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    write_hdr(folder / "hdr.mp4", hdr_planes(), "smpte2084", num_frames=10)
    write_changing(folder / "sdr.mkv", [still(1, 10)])
    return folder


def mean_of_thumbnails(bench: Bench) -> dict[str, float]:
    """File name -> mean level of its clips' stored thumbnails."""
    import io

    from PIL import Image

    samples = {row["sample_id"]: row["uri"].rpartition("/")[2] for row in table(bench) if row["sample_id"]}
    found = {}
    for sample_id, (values, _) in bench.rows("videos.thumbnail").items():
        picture = next(value for value in values.values() if isinstance(value, bytes))
        found[samples[sample_id]] = float(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).mean())
    return found


def test_hdr_is_rejected_by_wish_and_comes_back_unmeasured(hdr_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    reject = Bench(data_of(hdr_folder, output, hdr="reject"))
    reject.run()
    assert reject.outcomes() == {"hdr.mp4": "rejected hdr_rejected", "sdr.mkv": "kept"}
    assert len(reject.rows("videos.scenes")) == 1
    kept = Bench(data_of(hdr_folder, output))
    assert kept.run().rows["videos.scenes"] == 1  # the HDR clip alone
    assert kept.outcomes() == {"hdr.mp4": "kept", "sdr.mkv": "kept"}
    again = Bench(data_of(hdr_folder, output, hdr="reject"))
    assert not again.run().rows
    assert again.outcomes() == {"hdr.mp4": "rejected hdr_rejected", "sdr.mkv": "kept"}


def test_hdr_looks_other_under_each_setting(hdr_folder: Path, tmp_path: Path) -> None:
    mapped = Bench(data_of(hdr_folder, tmp_path / "out"))
    flagged = Bench(data_of(hdr_folder, tmp_path / "out", hdr="flag"))
    mapped.run()
    assert flagged.run().rows["videos.thumbnail"] == 2
    levels, others = mean_of_thumbnails(mapped), mean_of_thumbnails(flagged)
    assert levels["sdr.mkv"] == others["sdr.mkv"]
    assert abs(levels["hdr.mp4"] - others["hdr.mp4"]) > 2


def fingerprints(data: dict[str, Any]) -> dict[str, str]:
    return {step.key: step.fingerprint for step in built(data)[1].steps()}


def test_only_what_sees_hdr_otherwise_has_other_fingerprints(tmp_path: Path) -> None:
    data = data_of(tmp_path, tmp_path / "out", images={"filters": ["thumbnail", "resolution"]})
    data["videos"]["filters"] = ["thumbnail", "resolution"]
    data["captions"] = {"engine": "stand-in"}
    mapped, rejecting, flagged = (fingerprints(data | {"hdr": hdr}) for hdr in ("tone_map", "reject", "flag"))
    assert mapped == rejecting
    assert {key for key in mapped if mapped[key] != flagged[key]} == {
        "videos.scenes",
        "videos.thumbnail",
        "captions",
    }
