"""Two decoders, one behavior: what decord takes equals PyAV, and what it is known to get wrong it refuses."""

from __future__ import annotations

from itertools import islice, zip_longest

import numpy as np
import pytest

from curation.errors import DecodeError, ProbeError
from curation.media.decode import probe_video
from curation.media.decoder import DecoderSettings, DecordDecoder, PyAVDecoder, decoder_for
from curation.media.decord import refusal
from generated import a_source, cut_off, turn, write_video

TAKEN = {
    "cc_test_clip_10s.mp4": "h264",
    "decord_flipping_a_pancake.mkv": "h264 with a variable rate",
    "decord_video_90.mov": "turned",
    "decord_video_180.mov": "turned",
    "exo_bear-vp9.webm": "vp9",
    "exo_sample.flv": "absurd header",
    "iio_cockatoo.mp4": "4:4:4",
    "mpy_big_buck_bunny_0_30.webm": "vp8",
    "skv_bikes.mp4": "h264",
    "skv_carphone_pristine.mp4": "pixels that are not square",
    "tc_bt709_full_range.mp4": "full range",
}
REFUSED = {
    "exo_sample_av1.mp4": "AV1: cannot open it",
    "tc_h265_video.mp4": "HEVC: random access gives other frames",
    "exo_sample_h265.ts": "HEVC: other frames from the start on",
    "exo_sample.avi": "MPEG-4: random access gives other frames",
    "exo_sample_h262_mpeg_audio.ps": "MPEG-2: the same",
    "tc_h264_10bits.mp4": "10 bits: other colors",
    "exo_roadtrip-vp92-10bit.webm": "10 bits: other colors and times",
}


def h264(path, number, **options):
    frames = [np.full((64, 80, 3), 5 * (k % 50), np.uint8) for k in range(number)]
    return write_video(path, frames, codec="libx264", pix_fmt="yuv420p", preset="ultrafast", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN)
def test_frames_and_times_are_the_same(shared_data, name):
    path = shared_data / "video" / name
    assert isinstance(decoder_for(DecoderSettings("decord"), a_source(path)), DecordDecoder)
    pairs = zip_longest(DecordDecoder().frames(path), PyAVDecoder().frames(path))
    for mine, reference in islice(pairs, 120):
        assert (mine.index, mine.pts_s) == (reference.index, pytest.approx(reference.pts_s, abs=1e-9))
        assert np.array_equal(mine.pixels, reference.pixels)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cc_test_clip_10s.mp4", "mpy_big_buck_bunny_0_30.webm", "exo_bear-vp9.webm"]
)
def test_frames_from_the_middle_are_the_same(shared_data, name):
    path = shared_data / "video" / name
    for start_s in (0.4 * probe_video(path).duration_s, 0.8 * probe_video(path).duration_s):
        mine = {frame.pts_s: frame.pixels for frame in islice(DecordDecoder().frames(path, start_s), 60)}
        for frame in PyAVDecoder().frames(path, start_s):
            if start_s <= frame.pts_s <= max(mine):
                assert np.array_equal(mine[frame.pts_s], frame.pixels)
        assert start_s - 1.5 < min(mine) <= start_s < max(mine)


@pytest.mark.parametrize("name", REFUSED)
def test_what_decord_gets_wrong_is_decoded_by_pyav(shared_data, name):
    source = a_source(shared_data / "video" / name)
    assert DecordDecoder().refusal(source)
    assert isinstance(decoder_for(DecoderSettings("decord"), source), PyAVDecoder)


def test_only_known_streams_are_taken():
    known = {"codec": "h264", "pixel_format": "yuv420p", "width": 64, "height": 64}
    assert refusal(a_source(**known)) is None
    assert "hevc" in refusal(a_source(**known | {"codec": "hevc"}))
    assert "yuv420p10le" in refusal(a_source(**known | {"pixel_format": "yuv420p10le"}))
    assert "48x64" in refusal(a_source(**known | {"width": 48}))
    assert refusal(a_source())


def test_decord_frames_come_upright_and_in_order(tmp_path):
    path = turn(h264(tmp_path / "a.mp4", 40, bf="3"), 90)
    frames = list(DecordDecoder().frames(path))
    reference = list(PyAVDecoder().frames(path))
    assert [frame.pixels.shape for frame in frames] == [frame.pixels.shape for frame in reference]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(frames, reference, strict=True))


def test_decord_begins_shortly_before_the_time_asked_for(tmp_path):
    path = h264(tmp_path / "a.mp4", 200, rate=10, g="20")
    frames = list(islice(DecordDecoder().frames(path, 12.0), 5))
    assert frames[0].index == 0
    assert [frame.pts_s for frame in frames] == pytest.approx([11.0, 11.1, 11.2, 11.3, 11.4])
    assert [round(frame.pixels.mean() / 5) for frame in frames] == [10, 11, 12, 13, 14]


def test_decord_says_what_is_broken(tmp_path):
    with pytest.raises(ProbeError):
        list(DecordDecoder().frames(cut_off(h264(tmp_path / "a.mp4", 20), 0.5)))


@pytest.mark.parametrize(("decoder", "fewest"), [(PyAVDecoder(), 49), (DecordDecoder(), 1)])
def test_both_say_after_how_many_frames_it_breaks_off(tmp_path, decoder, fewest):
    """decord's thread gives up ahead of its reader, who then misses some frames that were whole."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 80, 3), np.uint8) for _ in range(100)]
    path = write_video(tmp_path / "a.mp4", noise, codec="libx264", pix_fmt="yuv420p", g="10", threads="1")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=r"^stopped after \d+ of 100 frames: [A-Z]") as failed:
        list(decoder.frames(path))
    assert fewest <= int(str(failed.value).split()[2]) <= 49
