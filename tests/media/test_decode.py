"""Videos: every frame, upright, at its own time, or the error that says where it breaks off."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image

from curation.errors import DecodeError, ProbeError
from curation.media.decode import decode_video, probe_video
from generated import cut_off, expected, numbered, numbers_in, texture, turn, write_video


def h264(path, frames, **options):
    return write_video(path, frames, codec="libx264", pix_fmt="yuv420p", preset="ultrafast", **options)


@pytest.fixture
def noise():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(50)]


def test_lossless_frames_come_back_exactly(tmp_path):
    frames = [texture(37, 51, seed=seed) for seed in range(4)]  # odd sides
    decoded = list(decode_video(write_video(tmp_path / "a.mkv", frames)))
    assert [frame.index for frame in decoded] == [0, 1, 2, 3]
    for frame, stored in zip(decoded, frames, strict=True):
        assert frame.pixels.dtype == np.uint8
        assert np.array_equal(frame.pixels, stored)


def test_a_frame_outlives_its_successors(tmp_path):
    decoded = list(decode_video(write_video(tmp_path / "a.mkv", [numbered(k) for k in range(300)])))
    assert numbers_in([frame.pixels for frame in decoded]) == list(range(300))


def test_frames_come_in_presentation_order(tmp_path):
    ramp = [np.full((32, 32, 3), 5 * k, np.uint8) for k in range(50)]
    b_frames = {"x264-params": "bframes=3:b-adapt=0:scenecut=0"}
    path = write_video(tmp_path / "a.mp4", ramp, codec="libx264", pix_fmt="yuv420p", **b_frames)
    with av.open(str(path)) as file:
        sent = [packet.pts for packet in file.demux(video=0) if packet.pts is not None]
    assert sent != sorted(sent), "without B-frames this file would prove nothing"
    decoded = list(decode_video(path))
    assert [round(float(frame.pixels.mean()) / 5) for frame in decoded] == list(range(50))
    assert [frame.pts_s for frame in decoded] == pytest.approx([k / 25 for k in range(50)])


def test_times_are_those_of_the_container(tmp_path):
    times_ms = [0, 40, 500, 520, 521, 3000]
    path = write_video(tmp_path / "a.mkv", [numbered(k) for k in range(6)], times_ms=times_ms)
    decoded = list(decode_video(path))
    assert [frame.pts_s for frame in decoded] == pytest.approx([time / 1000 for time in times_ms])
    assert numbers_in([frame.pixels for frame in decoded]) == list(range(6))


def test_frames_without_a_time_follow_at_the_frame_rate(tmp_path, noise):
    path = h264(tmp_path / "raw.h264", noise[:5])  # a bare stream has no container to say when
    assert [frame.pts_s for frame in decode_video(path)] == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])


@pytest.mark.parametrize(
    ("degrees", "corner"),
    [(0, "top left"), (90, "top right"), (180, "bottom right"), (270, "bottom left")],
)
def test_turned_videos_come_upright(tmp_path, degrees, corner):
    """The bright corner is stored top left; a clockwise turn takes it along."""
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :16] = 255
    path = turn(h264(tmp_path / "a.mp4", [stored] * 3), degrees)
    header = probe_video(path)
    pixels = next(decode_video(path)).pixels
    assert header.rotation == degrees
    assert (header.height, header.width) == pixels.shape[:2] == ((64, 32) if degrees % 180 else (32, 64))
    corners = {
        "top left": pixels[:16, :16],
        "top right": pixels[:16, -16:],
        "bottom left": pixels[-16:, :16],
        "bottom right": pixels[-16:, -16:],
    }
    assert max(corners, key=lambda name: corners[name].mean()) == corner
    assert corners[corner].mean() > 240


@pytest.mark.parametrize("degrees", [0, 90])
def test_wide_pixels_become_square(tmp_path, degrees):
    path = turn(h264(tmp_path / "a.mp4", [texture(48, 64)] * 2, aspect=Fraction(3, 2)), degrees)
    header = probe_video(path)
    wide = (48, 96)  # 64 * 3 / 2
    assert (header.height, header.width) == (wide[::-1] if degrees else wide)
    assert next(decode_video(path)).pixels.shape[:2] == (header.height, header.width)


def test_the_header_is_read_exactly(tmp_path):
    rate = Fraction(30_000, 1001)
    header = probe_video(h264(tmp_path / "a.mp4", [numbered(k, 32, 48) for k in range(30)], rate=rate))
    assert header.frame_rate == rate
    assert (header.width, header.height) == (48, 32)
    assert header.num_frames == 30
    assert header.duration_s == pytest.approx(30 * 1001 / 30_000, abs=1e-3)
    assert (header.codec, header.rotation) == ("h264", 0)


def test_what_the_header_cannot_know_is_none(tmp_path, noise):
    raw = probe_video(h264(tmp_path / "raw.h264", noise[:5]))
    assert (raw.duration_s, raw.num_frames) == (None, None)


def test_a_high_rate_is_believed_if_the_packets_say_the_same(tmp_path, noise):
    # Containers with a time base of 1 ms and no rate claim 1000 frames per second, too.
    assert probe_video(h264(tmp_path / "a.mp4", noise[:5], rate=1000)).frame_rate == 1000
    assert probe_video(h264(tmp_path / "b.mp4", noise[:5], rate=240)).frame_rate == 240


def test_a_truncated_video_says_after_how_many_frames(tmp_path, noise):
    path = cut_off(h264(tmp_path / "a.mp4", noise, movflags="faststart"), 0.6)
    assert probe_video(path).num_frames == 50
    indices = []
    with pytest.raises(DecodeError) as caught:
        indices.extend(frame.index for frame in decode_video(path))
    seen = len(indices)
    # Noise packs alike in every frame, so 60 % of the bytes are about 60 % of the frames.
    assert 25 <= seen <= 35
    assert re.match(f"stopped after {seen} of 50 frames: ", str(caught.value))


def test_a_video_without_its_index_is_no_video(tmp_path, noise):
    path = cut_off(h264(tmp_path / "a.mp4", noise), 0.6)  # the index of an MP4 stands at its end
    with pytest.raises(ProbeError, match="not a video"):
        probe_video(path)
    with pytest.raises(ProbeError, match="not a video"):
        next(decode_video(path))


@pytest.mark.parametrize("content", [b"", b"I am a text file.\n" * 20])
def test_what_is_no_video_is_a_probe_error(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    for read in (probe_video, lambda path: next(decode_video(path))):
        with pytest.raises(ProbeError, match="not a video" if content else "empty") as caught:
            read(path)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"), [("a.mkv", "no video stream"), ("a.wav", "it is in no format that is read")]
)
def test_sound_alone_is_a_probe_error(tmp_path, name, problem):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        sound.rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(ProbeError, match=problem):
        probe_video(path)


# Real media


def test_golden_frames(shared_data):
    """decode_golden: torchcodec's reference frames, of the stream that is the best of each file."""
    best = {"tc_nasa_13013.mp4": 3, "tc_av1_video.mkv": 0, "tc_h265_video.mp4": 0}
    compared = 0
    for name, stream in best.items():
        pattern = f"{name.removeprefix('tc_')}.stream{stream}.frame*.png"
        golden = {
            int(path.stem[-6:]): np.asarray(Image.open(path))
            for path in (shared_data / "image/decode_golden").glob(pattern)
        }
        for frame in decode_video(shared_data / "video" / name):
            if frame.index in golden:
                assert np.abs(frame.pixels.astype(int) - golden[frame.index]).max() <= 2
                compared += 1
    assert compared == 7


def test_the_frame_at_a_time(shared_data):
    golden = np.asarray(Image.open(shared_data / "image/decode_golden/nasa_13013.mp4.time12.979633.png"))
    frames = decode_video(shared_data / "video/tc_nasa_13013.mp4")
    shown = next(frame for frame in frames if frame.pts_s > 12.979633 - 1e-3)
    assert shown.pts_s == pytest.approx(12.979633, abs=1e-6)
    assert np.abs(shown.pixels.astype(int) - golden).max() <= 2


def test_real_turned_videos(shared_data):
    """decode_golden, rotation: dmlc/decord's own expectations, as height and width."""
    for name, displayed in expected(shared_data)["decode_golden"]["rotation"]["displayed_hw"].items():
        header = probe_video(shared_data / "video" / name)
        assert [header.height, header.width] == displayed
        assert list(next(decode_video(shared_data / "video" / name)).pixels.shape[:2]) == displayed
        assert header.rotation == int(re.findall(r"\d+", name)[0])


def test_times_of_a_variable_rate(shared_data):
    """decode_golden, timestamps and frame_counts: dmlc/decord's own expectations."""
    times = [frame.pts_s for frame in decode_video(shared_data / "video/decord_flipping_a_pancake.mkv")]
    golden = expected(shared_data)["decode_golden"]
    assert times[:5] == pytest.approx(golden["timestamps"]["decord_flipping_a_pancake.mkv first 5"])
    assert len(times) == golden["frame_counts"]["decord_flipping_a_pancake.mkv"]


def test_every_real_file_decodes_or_fails_as_known(shared_data):
    """decode_matrix: PyAV 18.1.0, best stream."""
    for name, known in expected(shared_data)["decode_matrix"]["values"].items():
        path = shared_data / "video" / name
        if not known.get("frames"):
            with pytest.raises(ProbeError):
                probe_video(path)
            continue
        if "decode_error" in known:
            with pytest.raises(DecodeError, match=f"stopped after {known['frames']} of "):
                list(decode_video(path))
            continue
        times = [frame.pts_s for frame in decode_video(path)]
        assert len(times) == known["frames"], name
        assert [times[0], times[-1]] == pytest.approx([known["first_pts"], known["last_pts"]], abs=1e-5), name
        assert all(earlier < later for earlier, later in pairwise(times)) == known["monotonic"], name


def test_sizes_of_real_files_are_upright_and_square(shared_data):
    """decode_matrix gives stored sizes and turns; the carphone files have pixels of 128:117."""
    for name, known in expected(shared_data)["decode_matrix"]["values"].items():
        if not known.get("size"):
            continue
        width, height = known["size"]
        if "carphone" in name:
            width = round(width * 128 / 117)
        if known["rotation"] % 180:
            width, height = height, width
        header = probe_video(shared_data / "video" / name)
        assert (header.width, header.height) == (width, height), name
        assert header.rotation == -known["rotation"] % 360, name


def pixels_from(path, start_s):
    """Time and pixels of every frame from `start_s` on, decoding from a key frame before it."""
    return {
        round(frame.pts_s, 6): frame.pixels for frame in decode_video(path, start_s) if frame.pts_s >= start_s
    }


def assert_seeks_are_exact(path, starts_s):
    frames = {round(frame.pts_s, 6): frame.pixels for frame in decode_video(path)}
    for start_s in starts_s:
        found = pixels_from(path, start_s)
        assert list(found) == [time_s for time_s in frames if time_s >= start_s], (path.name, start_s)
        for time_s, pixels in found.items():
            assert np.array_equal(pixels, frames[time_s]), (path.name, start_s, time_s)


def test_decoding_from_the_middle_gives_the_same_frames(tmp_path, noise):
    path = h264(tmp_path / "a.mp4", noise * 3, rate=10, g="12", bf="3")
    assert_seeks_are_exact(path, [0.0, 0.35, 2.0, 4.05, 7.3])


def test_decoding_from_the_middle_skips_what_is_before(tmp_path, noise):
    path = h264(tmp_path / "a.mp4", noise * 3, rate=10, g="12")
    first = next(decode_video(path, 8.0))
    assert 8.0 - 1.0 - 1.2 <= first.pts_s <= 8.0


@pytest.mark.slow
def test_real_files_from_the_middle(shared_data):
    """Of every codec that is sought in, and of those that are not."""
    for name in (
        "cc_test_clip_10s.mp4",
        "skv_bikes.mp4",
        "mpy_video_with_failing_audio.mp4",
        "tc_nasa_13013.mp4",
        "iio_test.webm",
        "mpy_big_buck_bunny_0_30.webm",
        "exo_roadtrip-vp92-10bit.webm",
        "tc_h265_video.mp4",
        "tc_av1_video.mkv",
        "exo_sample.avi",
        "exo_sample_h262_mpeg_audio.ps",
        "exo_sample.flv",
    ):
        path = shared_data / "video" / name
        duration_s = probe_video(path).duration_s
        assert_seeks_are_exact(path, [duration_s * part for part in (0.3, 0.55, 0.9)])
