"""All real files, whole or broken: the run completes, the counts add up, every outcome is as expected."""

from __future__ import annotations

import json
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.report.tables.table import flat_table
from datasets_media import Bench, config_data, curation, write_config

pytestmark = pytest.mark.slow


def image_config(shared_data: Path, output: Path, vocabulary: Path) -> dict[str, Any]:
    """Images of any size are measured."""
    data = config_data(shared_data, output, vocabulary)
    data["images"]["resolution"] = {"min_width": 1, "min_height": 1}
    return data


@pytest.fixture(scope="module")
def rows(
    shared_data: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """File name -> its rows of the flat table; the source's comes first."""
    folder = tmp_path_factory.mktemp("shared")
    data = image_config(shared_data, folder / "out", vocabulary)
    data["input"] = [str(shared_data / "image"), str(shared_data / "video")]
    data["videos"]["filters"] = ["text", "flow"]
    del data["videos"]["color"]
    data["run"] = {"unit_images": 16, "unit_videos": 4, "max_failed_fraction": 0.5}
    config = write_config(folder / "c.yaml", data)
    said = curation("run", "-c", config)
    assert "pending" in said
    curation("table", "-c", config, "--to", folder / "t.parquet")
    found: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(folder / "t.parquet").to_pylist():
        found.setdefault(Path(row["uri"]).name, []).append(row)
    return found


def expected(shared_data: Path, section: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((shared_data / "expected.json").read_text())[section]["values"]
    return values


def test_nothing_is_left_pending(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert {row["outcome"] for found in rows.values() for row in found} == {"kept", "rejected", "failed"}


def test_images_fail_exactly_if_they_cannot_be_loaded(
    shared_data: Path, rows: dict[str, list[dict[str, Any]]]
) -> None:
    unreadable = {
        name
        for name, found in rows.items()
        if {row["error_type"] for row in found} & {"ProbeError", "DecodeError"}
    }
    matrix = expected(shared_data, "image_open_matrix")
    # Made without the plugin for HEIC, which the tests have.
    assert {name for name in matrix if name.endswith(".heic")} == {"exo_sample_still_photo.heic"}
    assert rows["exo_sample_still_photo.heic"][1]["outcome"] in ("kept", "rejected")
    unloadable = {name for name, how in matrix.items() if how.get("load") != "ok"}
    assert unreadable & set(matrix) == unloadable - {"exo_sample_still_photo.heic"}


def test_images_have_the_size_that_they_show(
    shared_data: Path, rows: dict[str, list[dict[str, Any]]]
) -> None:
    """image_open_matrix: stored size and EXIF orientation."""
    for name, how in expected(shared_data, "image_open_matrix").items():
        if how.get("load") == "ok":
            size = how["size"][::-1] if how["exif_orientation"] in (5, 6, 7, 8) else how["size"]
            assert [rows[name][0]["width"], rows[name][0]["height"]] == size, name


def test_sources_have_the_published_hashes(shared_data: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """sources.json: sha256 of every file."""
    known = {
        Path(item["file"]).name: item["sha256"]
        for item in json.loads((shared_data / "sources.json").read_text())
    }
    assert {name: found[0]["content_hash"] for name, found in rows.items() if name in known} == {
        name: known[name] for name in rows if name in known
    }


def test_images_end_alike_in_a_tar_and_in_parquet(
    shared_data: Path, rows: dict[str, list[dict[str, Any]]], vocabulary: Path, tmp_path: Path
) -> None:
    """Every real image again, as a tar member and as a Parquet row: the same measurements bit for bit."""
    images = sorted(path for path in (shared_data / "image").iterdir() if path.is_file())
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/a.tar", "w") as archive:
        for path in images:
            archive.add(path, path.name)
    data = [path.read_bytes() for path in images]
    names = [path.name for path in images]
    pq.write_table(pa.table({"image": data, "name": names}), tmp_path / "in/a.parquet")
    bench = Bench(image_config(shared_data, tmp_path / "out", vocabulary) | {"input": [str(tmp_path / "in")]})
    bench.run()
    found: dict[str, list[Any]] = {}
    for row in flat_table(bench.ledger, bench.pipeline).to_pylist():
        name = row["name"] or row["uri"].partition("#")[2]
        found.setdefault(name, []).append([row[column] for column in COMPARED])
    assert set(found) == set(names)
    for name, compared in found.items():
        plain = [[row[column] for column in COMPARED] for row in rows[name]]
        assert compared == plain * 2, name


COMPARED = (
    "level", "outcome", "reason", "error_type", "width", "height", "codec", "size_bytes", "content_hash",
    "colorfulness", "channel_spread", "mean_luma", "text_coverage", "aesthetic_score",
)  # fmt: skip


def test_videos_fail_exactly_if_they_cannot_be_decoded_to_the_end(
    shared_data: Path, rows: dict[str, list[dict[str, Any]]]
) -> None:
    matrix = expected(shared_data, "decode_matrix")
    failed = {name for name in matrix if rows[name][0]["outcome"] == "failed"}
    assert failed == {
        name
        for name, how in matrix.items()
        if not how.get("frames") or "open_error" in how or "decode_error" in how
    }


def test_every_frame_is_seen_and_clips_follow_each_other(
    shared_data: Path, rows: dict[str, list[dict[str, Any]]]
) -> None:
    for name, how in expected(shared_data, "decode_matrix").items():
        source, *samples = rows[name]
        clips = sorted((row for row in samples if row["level"] == "sample"), key=lambda row: row["start_s"])
        if source["outcome"] == "failed" or source["kind"] == "image":
            continue
        assert clips[-1]["end_frame"] == how["frames"], name
        assert clips[0]["start_s"] == pytest.approx(how["first_pts"], abs=1e-4), name
        for clip, following in pairwise(clips):
            assert (clip["end_s"], clip["end_frame"]) == (following["start_s"], following["start_frame"]), (
                name
            )


def test_broken_files_say_what_is_wrong(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert rows["made_zero_length.mp4"][0]["error"] == "the file is empty"
    assert rows["made_text_named.mp4"][0]["error"].startswith("not a video")
    assert rows["made_trunc60_moov_first.mp4"][0]["error"].startswith("stopped after 140 of 250 frames")
    assert "is truncated" in rows["made_trunc_rocket.jpg"][1]["error"]
