"""Clocks that jump: where, how often, and one timeline on which every frame has its place."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from curation.errors import DecodeError
from curation.ledger.schemas import sources_to_table, table_to_sources
from curation.media.decode import decode_recordings, decode_video, probe_video
from curation.media.decoder import DecoderSettings, DecordDecoder, PyAVDecoder, decoder_for
from curation.media.probe import probe
from curation.media.timeline import Timeline, TimeStamps, timeline_of
from curation.records import Source
from generated import a_source, joined, write_video

MS = Fraction(1, 1000)
B_FRAMES = {"bf": "3", "g": "250", "qp": "0", "x264-params": "scenecut=0:b-adapt=0"}


def stamps_of(pts: Sequence[int | None], dts: Sequence[int | None] | None = None) -> TimeStamps:
    stamps = TimeStamps()
    for number, shown in enumerate(pts):
        stamps.add(shown, dts[number] if dts else None)
    return stamps


def line(pts: Sequence[int | None], **options: bool) -> Timeline:
    """The timeline of packets with these times in ms, which are shown and decoded in the same order."""
    return timeline_of(stamps_of(pts, pts), MS, has_own_dts=options.get("has_own_dts", True))


def steady(number: int, start_ms: int = 0, step_ms: int = 40) -> list[int]:
    return [start_ms + step_ms * k for k in range(number)]


def reordered(times: list[int]) -> list[int]:
    """In the order of decoding, where every third picture comes before the two that it follows."""
    return [time for k in range(0, len(times), 3) for time in (*times[k : k + 3][2:], *times[k : k + 2])]


# From times to a timeline


@pytest.mark.parametrize(
    "pts",
    [
        steady(50),
        steady(50, 3_600_000),
        steady(50, -500),
        steady(10, step_ms=1000),
        steady(10, step_ms=20_000),
        [0, 40, 500, 520, 521, 3000, 3040, 9000, 13_000],
        [0, 40, 40, 80, 120],
        [0, 40, 80, 60, 120, 160],
        [0, 40, None, 120, None, 200],
        [None, None],
        [7],
        [],
    ],
    ids=str,
)
def test_a_clock_without_a_jump_is_left_alone(pts):
    timeline = line(pts)
    assert timeline.joints == ()
    assert [timeline.moved(number, time) for number, time in enumerate(pts)] == pts


def test_pictures_that_are_decoded_early_are_no_jump():
    times = steady(60) + steady(60, 9000, 200)
    for has_own_dts in (True, False):
        stamps = stamps_of(reordered(times), times if has_own_dts else None)
        assert timeline_of(stamps, MS, has_own_dts=has_own_dts).joints == ()


def test_a_clock_that_begins_again_goes_on():
    timeline = line(steady(75, 1400) + steady(150, 1400))
    assert timeline.joints == (1400 + 3000,)
    assert timeline.times(stamps_of(steady(75, 1400) + steady(150, 1400))) == steady(225, 1400)


def test_a_gap_is_closed():
    timeline = line(steady(75) + steady(75, 600_000))
    assert timeline.joints == (3000,)
    assert timeline.moved(74, 2960) == 2960
    assert timeline.moved(75, 600_000) == 3000
    assert timeline.moved(75, 599_900) == 2900, "a decoding time lies before its picture's"


def test_every_jump_counts():
    pts = steady(50, 5000) + steady(50, 60_000) + steady(50) + steady(50, 20_000) + steady(50, 1000)
    assert line(pts).joints == tuple(7000 + 2000 * k for k in range(4))


def test_a_recording_ends_as_its_own_frames_follow_each_other():
    """The last frame at 10 frames per second lasts 100 ms, the last one at 25 lasts 40 ms."""
    assert line(steady(10, 0, 100) + steady(100) + steady(100)).joints == (1000, 5000)


@pytest.mark.parametrize(("gap_ms", "number"), [(10_000, 0), (10_001, 1)])
def test_a_gap_is_more_than_ten_seconds(gap_ms, number):
    assert len(line(steady(50) + steady(50, 1960 + gap_ms)).joints) == number


@pytest.mark.parametrize(("gap_ms", "number"), [(20_000, 0), (20_001, 1)])
def test_a_gap_is_more_than_ten_usual_steps(gap_ms, number):
    assert len(line([*steady(20, 0, 2000), *steady(20, 38_000 + gap_ms, 2000)]).joints) == number


@pytest.mark.parametrize(("back", "number"), [(2, 0), (3, 1)])
def test_times_of_decoding_may_fall_back_by_two_packets(back, number):
    times = steady(50) + steady(50, 2000 - 40 * (back + 1))
    assert len(line(times).joints) == number


@pytest.mark.parametrize(("back", "number"), [(16, 0), (17, 1)])
def test_times_of_showing_may_fall_back_by_sixteen_packets(back, number):
    times = steady(50) + steady(50, 2000 - 40 * (back + 1))
    assert len(line(times, has_own_dts=False).joints) == number


def test_the_joint_is_found_among_pictures_that_are_decoded_early():
    """As in Matroska files, whose decoding times FFmpeg makes up."""
    first, second = steady(60, 500), steady(90)
    stamps = stamps_of(reordered(first) + reordered(second))
    timeline = timeline_of(stamps, MS, has_own_dts=False)
    assert timeline.joints == (2900,)
    assert timeline.times(stamps) == steady(150, 500)


def test_a_gap_within_a_group_of_pictures_keeps_each_picture_on_its_side():
    times = steady(50) + steady(52, 300_000)
    for has_own_dts in (True, False):
        stamps = stamps_of(reordered(times), times)
        timeline = timeline_of(stamps, MS, has_own_dts=has_own_dts)
        assert timeline.joints == (2000,)
        assert timeline.times(stamps) == steady(102)


def test_one_absurd_time_does_not_move_the_others_apart():
    times = [*steady(50), 10**12, *steady(50, 2040)]
    timeline = line(times)
    assert [timeline.moved(k, times[k]) for k in range(101)] == steady(101)


# From files to frames


def shaded(number: int, first: int = 0) -> list[np.ndarray]:
    """Gray frames, each two levels brighter than the one before."""
    return [np.full((48, 64, 3), 2 * (first + k), np.uint8) for k in range(number)]


def h264(path: Path, times_ms: Sequence[int], first: int = 0, **options: str) -> Path:
    frames = shaded(len(times_ms), first)
    return write_video(
        path, frames, codec="libx264", pix_fmt="yuv420p", times_ms=times_ms, **(B_FRAMES | options)
    )


def mpeg2(path: Path, number: int, first: int = 0) -> Path:
    return write_video(
        path, shaded(number, first), codec="mpeg2video", pix_fmt="yuv420p", rate=25, qmin="1", qmax="1"
    )


def wrapped(path: Path, before: int, number: int) -> Path:
    """A transport stream whose 33 bits of clock run out `before` frames after its beginning."""
    with av.open(str(path), "w", options={"mpegts_copyts": "1"}) as file:
        stream = file.add_stream("libx264", rate=25, options=B_FRAMES)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90_000)
        for k, pixels in enumerate(shaded(number)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 2**33 + 3600 * (k - before), Fraction(1, 90_000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def files_that_jump(name: str, folder: Path) -> tuple[Path, list[int]]:
    """A file of 100 or so frames, and the numbers of those that follow a discontinuity."""
    kind, _, suffix = name.partition(" in ")
    path = folder / f"whole.{suffix}"
    parts = (folder / f"a.{suffix}", folder / f"b.{suffix}", folder / f"c.{suffix}")
    if kind == "two recordings":
        return joined(path, h264(parts[0], steady(40)), h264(parts[1], steady(60), 40)), [40]
    if kind == "two MPEG-2 recordings":
        return joined(path, mpeg2(parts[0], 40), mpeg2(parts[1], 60, 40)), [40]
    if kind == "three recordings":
        lengths = (30, 20, 40)
        files = [
            h264(part, steady(n), first) for part, n, first in zip(parts, lengths, (0, 30, 50), strict=True)
        ]
        return joined(path, *files), [30, 50]
    if kind == "a short recording first":
        return joined(path, h264(parts[0], steady(6)), h264(parts[1], steady(90), 6)), [6]
    if kind == "a late recording first":
        return joined(path, h264(parts[0], steady(50, 50_000_000)), h264(parts[1], steady(50), 50)), [50]
    if kind == "a wrapped clock first":
        return joined(path, wrapped(parts[0], 20, 50), h264(parts[1], steady(50), 50)), [50]
    if kind == "a gap":
        return h264(path, steady(50) + steady(50, 600_000)), [50]
    if kind == "gaps":
        return h264(path, steady(41) + steady(30, 30_000) + steady(30, 99_000)), [41, 71]
    if kind == "a gap between fragments":
        options = {"movflags": "frag_keyframe+empty_moov", "g": "10"}
        return h264(path, steady(50) + steady(50, 60_000), **options), [50]
    raise AssertionError(kind)


JUMPS = [
    "two recordings in ts",
    "three recordings in ts",
    "a short recording first in ts",
    "a late recording first in ts",
    "a wrapped clock first in ts",
    "two recordings in mkv",
    "two MPEG-2 recordings in mpg",
    "a gap in ts",
    "a gap in mkv",
    "a gap in mp4",
    "a gap in flv",
    "gaps in ts",
    "gaps in mp4",
    "a gap between fragments in mp4",
]


@pytest.mark.parametrize("name", JUMPS)
def test_all_frames_of_a_file_that_jumps_are_shown_one_after_the_other(tmp_path, name):
    path, jumps = files_that_jump(name, tmp_path)
    header = probe_video(path)
    frames = list(decode_recordings(path))
    number = len(frames)
    shades = [float(frame.pixels.mean()) for frame in frames]
    assert shades == pytest.approx([2 * k for k in range(number)], abs=1.9)  # YUV has no finer steps
    assert min(np.diff(shades)) > 0
    assert (header.num_frames, header.frame_rate) == (number, Fraction(25))
    assert header.num_discontinuities == len(jumps)
    assert header.duration_s == pytest.approx(number / 25)
    assert [frame.index for frame in frames if frame.follows_jump] == jumps
    steps = [after.pts_s - before.pts_s for before, after in pairwise(frames)]
    assert steps == pytest.approx([0.04] * (number - 1), abs=1.1e-3)  # FLV and Matroska count in ms


@pytest.mark.parametrize(
    ("suffix", "times_ms"),
    [
        ("ts", steady(100)),
        ("ts", steady(100, 50_000_000)),
        ("ts", steady(20, 0, 1000)),
        ("mkv", steady(20, 0, 1000)),
        ("mp4", steady(20, 0, 15_000)),
        ("mkv", [0, 40, 500, 520, 521, 3000, 3040, 9000, 9100, 9140, 18_000, 18_040]),
        ("mp4", steady(50) + steady(50, 11_960)),
        ("flv", steady(100)),
    ],
)
def test_files_whose_clock_does_not_jump_keep_their_times(tmp_path, suffix, times_ms):
    path = h264(tmp_path / f"a.{suffix}", times_ms)
    assert probe_video(path).num_discontinuities == 0
    times_s = [frame.pts_s for frame in decode_video(path)]
    expected = [time / 1000 for time in times_ms]
    # MPEG-TS and FLV begin later, so that decoding times are not negative.
    assert np.diff(times_s) == pytest.approx(np.diff(expected), abs=1.1e-3)


def test_a_clock_that_runs_out_of_bits_does_not_jump(tmp_path):
    """ISO/IEC 13818-1: 33 bits at 90 kHz. FFmpeg counts such a file from before zero."""
    path = wrapped(tmp_path / "a.ts", 50, 100)
    assert probe_video(path).num_discontinuities == 0
    assert [frame.pts_s for frame in decode_video(path)] == pytest.approx([(k - 50) / 25 for k in range(100)])


def test_no_frame_is_shown_before_its_predecessor(tmp_path):
    """A frame a little too early, as damaged files have it; FFV1 shows frames as they are stored."""
    times_ms = [0, 40, 80, 60, 120, 160]
    path = tmp_path / "a.mkv"
    frames = shaded(6)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        stream.codec_context.time_base = MS
        packets = []
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 40 * k, MS
            packets += stream.encode(frame)
        for packet, time_ms in zip([*packets, *stream.encode()], times_ms, strict=True):
            packet.dts, packet.pts = packet.pts - 100, time_ms
            file.mux(packet)
    times_s = [frame.pts_s for frame in decode_video(path)]
    assert np.subtract(times_s, times_s[0]) == pytest.approx([0.0, 0.04, 0.08, 0.08, 0.12, 0.16])


def test_a_file_that_jumps_is_decoded_from_its_first_frame_by_pyav(tmp_path):
    path, _ = files_that_jump("two recordings in ts", tmp_path)
    known = {"pixel_format": "yuv420p", "width": 64, "height": 64}
    assert DecordDecoder().refusal(a_source(path, **known, num_discontinuities=0)) is None
    source = a_source(path, **known)
    assert DecordDecoder().refusal(source) == "decord can't place the frames of a video whose clock jumps"
    for name in ("decord", "pyav"):
        decoder = decoder_for(DecoderSettings(name), source)
        assert isinstance(decoder, PyAVDecoder)
        assert next(decoder.frames(path, 3.5)).pixels.mean() == 0


def test_the_number_of_discontinuities_is_kept(tmp_path):
    path, _ = files_that_jump("gaps in mp4", tmp_path)
    source = probe(Source(source_id="s", uri="a", kind="video", size_bytes=1, etag="e"), path)
    assert source.num_discontinuities == 2
    table = sources_to_table([source])
    assert table_to_sources(table) == [source]
    (older,) = table_to_sources(table.drop_columns("num_discontinuities"))
    assert not older.clock_jumps


def test_a_file_that_jumps_and_breaks_off_says_where(tmp_path):
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (100, 48, 64, 3), np.uint8)
    times_ms = steady(50) + steady(50, 60_000)
    write_video(path, noise, codec="libx264", pix_fmt="yuv420p", times_ms=times_ms, g="10", bf="0")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    assert probe_video(path).num_discontinuities == 1
    with pytest.raises(DecodeError, match=r"^stopped after \d\d of 100 frames: [A-Z]"):
        list(decode_recordings(path))
