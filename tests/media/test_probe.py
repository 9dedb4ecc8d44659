"""Headers: what is read, what is corrected, what is not believed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from curation.ingest.suffixes import kind_of
from curation.ledger.schemas import sources_to_table, table_to_sources
from curation.media.probe import probe
from curation.records import Source
from generated import expected, scenes_of, write_video


def probed(path: Path) -> Source:
    kind = kind_of(path.name)
    assert kind is not None
    return probe(Source(source_id="s", uri=path.name, kind=kind, size_bytes=1, etag="e"), path)


def test_kinds_go_by_suffix_in_any_case() -> None:
    kinds = [
        kind_of(name) for name in ("a.JPG", "a.webp", "a.gif", "a.MP4", "a.webm", "a.txt", "jpg", "a.tar")
    ]
    assert kinds == ["image", "image", "image", "video", "video", None, None, None]


def test_video_header(tmp_path: Path) -> None:
    source = probed(write_video(tmp_path / "a.mkv", scenes_of([25], 48, 64)))
    assert (source.width, source.height, source.frame_rate) == (64, 48, Fraction(25))
    assert source.duration_s == pytest.approx(1.0, abs=0.01)
    assert source.pixel_format is not None
    assert (source.rotation, source.stream_index, source.sample_aspect_ratio) == (0, 0, None)


def test_not_media_is_an_error_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("no video")
    source = probed(path)
    assert (source.ok, source.error_type) == (False, "ProbeError")


def test_the_hash_of_the_bytes_is_kept_even_of_what_is_no_media(tmp_path: Path) -> None:
    """The digest of "abc" is the example of FIPS 180-2, appendix B.1."""
    path = tmp_path / "a.jpg"
    path.write_text("abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert probed(path).content_hash == digest
    again = write_video(tmp_path / "a.mkv", scenes_of([5], 48, 64))
    assert probed(again).content_hash == hashlib.sha256(again.read_bytes()).hexdigest()
    path.unlink()
    assert (probed(path).content_hash, probed(path).ok) == (None, False)


def test_sources_of_a_ledger_from_before_hashes_are_read() -> None:
    source = Source(source_id="s", uri="a.jpg", kind="image", size_bytes=1, etag="e", content_hash="ab")
    table = sources_to_table([source])
    assert table_to_sources(table) == [source]
    assert table_to_sources(table.drop_columns("content_hash")) == [replace(source, content_hash=None)]


def test_true_rate_and_duration_of_every_file(shared_data: Path) -> None:
    """decode_matrix: first and last time and number of frames; the last one lasts like the others."""
    for name, how in expected(shared_data)["decode_matrix"]["values"].items():
        if not how.get("frames") or how["frames"] < 2 or "decode_error" in how or name.endswith(".gif"):
            continue
        source = probed(shared_data / "video" / name)
        shown_s = how["last_pts"] - how["first_pts"]
        whole_s = shown_s * how["frames"] / (how["frames"] - 1)
        assert source.duration_s == pytest.approx(whole_s, abs=0.15), name
        assert source.frame_rate is not None
        assert float(source.frame_rate) == pytest.approx((how["frames"] - 1) / shown_s, rel=0.1), name
        width, height = how["size"][::-1] if how["rotation"] % 180 else how["size"]
        assert source.height == height, name
        assert source.width == width or source.sample_aspect_ratio, name


@pytest.mark.parametrize("name", ["exo_sample.flv", "exo_sample.mkv", "exo_sample_with_ssa_subtitles.mkv"])
def test_a_rate_of_1000_is_not_believed(shared_data: Path, name: str) -> None:
    """Their headers say 1000 frames per second (decode_matrix: cv2_fps); 30 frames last one second."""
    source = probed(shared_data / "video" / name)
    assert source.frame_rate is not None
    assert float(source.frame_rate) == pytest.approx(29.99, abs=0.01)
    assert source.num_frames == 30


def test_hdr_wide_pixels_and_the_best_stream_are_told(shared_data: Path) -> None:
    """sources.json: HDR10, pixels of 128:117, and a file whose fourth stream is the largest."""
    video = shared_data / "video"
    hdr = probed(video / "exo_hdr10-video-with-sdr-container.mp4")
    assert (hdr.color_transfer, hdr.pixel_format) == ("smpte2084", "yuv420p10le")
    wide = probed(video / "skv_carphone_pristine.mp4")
    assert (wide.sample_aspect_ratio, wide.width) == ("128/117", round(176 * 128 / 117))
    assert probed(video / "tc_nasa_13013.mp4").stream_index == 3
    assert probed(video / "tc_av1_video.mkv").codec == "av1"
