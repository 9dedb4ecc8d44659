"""Leaving out pictures: whoever looks at a frame sees what is seen with every picture decoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from coded_media import FORMATS, PAIRS
from curation.errors import DecodeError
from curation.media.decode import decode_video
from curation.media.frame import Frame
from curation.media.sampling import Sampling
from curation.media.skipping import can_skip
from generated import cut_off, scenes_of, texture, write_video
from pictures_media import in_pictures, write_interlaced, write_parts

FPS = 25
SAMPLING = Sampling(2.0, frozenset({4.0}))


def pictures(number: int = 100):
    """Two textures that move, with a cut between them, so that no two frames are alike."""
    first, second = texture(64, 96, seed=1), texture(64, 96, seed=2)
    return [np.roll(first if k < number // 2 else second, k, axis=1) for k in range(number)]


@pytest.fixture(scope="module", params=FORMATS)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    how = {"pix_fmt": "yuv420p"} | FORMATS[request.param]
    return write_video(tmp_path_factory.mktemp("codecs") / request.param, pictures(), rate=FPS, **how)


def every(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    return ([frame] for frame in frames)


def in_tens(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    """Ten at a time, when the decoder has gone on by ten."""
    held = list(frames)
    return iter([held[at : at + 10] for at in range(0, len(held), 10)])


def by_windows(size: int) -> Callable[[Iterator[Frame]], Iterator[list[Frame]]]:
    """A number of frames at a time, while decoding goes on."""

    def windows(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
        held = []
        for frame in frames:
            held.append(frame)
            if len(held) == size:
                yield held
                held = []
        yield held

    return windows


def backwards(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    return iter([list(frames)[::-1]])


def seen(path, sampling, looks, start_s=0.0):
    """Number -> time and pixels of every frame."""
    frames = decode_video(path, start_s, sampling=sampling)
    return {
        frame.index: (frame.pts_s, frame.pixels.tobytes()) for window in looks(frames) for frame in window
    }


@pytest.mark.parametrize("looks", [every, by_windows(7), by_windows(40), in_tens, backwards])
def test_whoever_looks_sees_the_same(video: Path, looks) -> None:
    assert seen(video, SAMPLING, looks) == seen(video, None, every)


@pytest.mark.parametrize("start_s", [1.3, 2.6])
def test_decoding_from_the_middle_sees_the_same(video: Path, start_s: float) -> None:
    sampling = Sampling(2.0, frozenset({4.0}), first_s=0.0)
    assert seen(video, sampling, by_windows(7), start_s) == seen(video, None, every, start_s)


def test_frames_that_nobody_looks_at_are_not_decoded(tmp_path: Path) -> None:
    """Every odd picture is a B-frame, and all of them look alike, so that none is expected to be a cut."""
    path = write_video(
        tmp_path / "a.mp4",
        [texture(64, 96)] * 100,
        codec="libx264",
        pix_fmt="yuv420p",
        rate=FPS,
        g="250",
        **PAIRS,
    )
    frames = list(decode_video(path, sampling=Sampling(2.0)))
    assert [frame.pts_s for frame in frames] == pytest.approx([number / FPS for number in range(100)])
    samples = {math.ceil(step * FPS / 2) for step in range(8)}
    last_step = set(range(math.ceil(7 * FPS / 2), 100))
    needed = set(range(0, 100, 2)) | samples | last_step
    assert sum(frame.num_decoded for frame in frames) == len(needed)


def test_what_lies_on_a_grid_is_decoded_at_once(tmp_path: Path) -> None:
    """5 frames per second of 25, without steps: 0, 5, 10, ...; the decoder never goes back for them."""
    path = write_video(
        tmp_path / "a.mp4", pictures(), codec="libx264", pix_fmt="yuv420p", rate=FPS, g="250", **PAIRS
    )
    decoded = 0
    for frame in decode_video(path, sampling=Sampling(None, frozenset({5.0}))):
        decoded += frame.num_decoded
        if frame.index % 5 == 0:
            assert frame.pixels.any()
    # With room for rounding: the frame before each of them is taken, too, unless it is even anyway.
    on_grid = set(range(0, 100, 5))
    needed = set(range(0, 100, 2)) | on_grid | {number - 1 for number in on_grid if number} | {99}
    assert decoded == len(needed)


def test_going_back_has_its_limits(tmp_path: Path) -> None:
    """One key frame, and now and then somebody looks at a frame that nothing told to be interesting."""
    path = write_video(
        tmp_path / "a.mp4",
        [texture(32, 48)] * 1600,
        codec="libx264",
        pix_fmt="yuv420p",
        rate=FPS,
        g="9999",
        **PAIRS,
    )
    decoded = 0
    for window in by_windows(200)(decode_video(path, sampling=Sampling(0.5))):
        decoded += sum(frame.num_decoded for frame in window)
        if window:
            assert window[-35].pixels.any()
    # Going back eight times from the start without a limit: half of the frames, and 100 + 200 + 300 + ...
    assert decoded <= 1600 + 300


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.97])
def test_a_video_that_breaks_off_does_so_at_the_same_frame(
    tmp_path: Path, name: str, fraction: float
) -> None:
    path = write_video(
        tmp_path / name,
        pictures(),
        codec="libx264",
        pix_fmt="yuv420p",
        rate=FPS,
        **({"movflags": "faststart"} if name == "a.mp4" else {}),
        bf="3",
    )
    cut_off(path, fraction)

    def ends(sampling: Sampling | None) -> tuple[list[float], str]:
        times: list[float] = []
        try:
            times.extend(frame.pts_s for frame in decode_video(path, sampling=sampling))
        except DecodeError as error:
            return times, str(error)
        return times, ""

    assert ends(SAMPLING) == ends(None)
    assert ends(SAMPLING)[1] or name != "a.mp4"


@pytest.mark.parametrize("nums", [(40,), (0, 33, 40), (20, 40, 20, 40)])
def test_fields_are_woven_from_the_same_neighbors(tmp_path: Path, nums: tuple[int, ...]) -> None:
    """`nums` of interlaced and progressive frames, in turns."""
    path = write_interlaced(tmp_path / "a.mkv", *nums)
    with av.open(str(path)) as container:
        assert sum(frame.interlaced_frame for frame in container.decode(video=0)) == sum(nums[::2])
    for sampling in (SAMPLING, Sampling(None, frozenset({2.0}))):
        for looks in (every, by_windows(7), by_windows(30), in_tens):
            assert seen(path, sampling, looks) == seen(path, None, every)


@pytest.mark.parametrize("first", range(30, 36))
def test_fields_that_begin_among_b_frames_are_woven_from_the_same_neighbors(
    tmp_path: Path, first: int
) -> None:
    """The decoder is told to leave out pictures before it gives the first that has fields."""
    params = "keyint=50:bframes=2:b-adapt=0:scenecut=0:repeat-headers=1"
    parts = [
        ({"x264-params": f"{params}:bff={fields}"}, in_pictures(pictures(number)))
        for fields, number in ((0, first), (1, 30))
    ]
    path = write_parts(tmp_path / "a.mkv", "libx264", parts)
    sampling = Sampling(None, frozenset({2.0}))
    for looks in (every, by_windows(7), by_windows(30)):
        assert seen(path, sampling, looks) == seen(path, None, every)


def test_a_size_that_changes_is_noticed(tmp_path: Path) -> None:
    options = {"bf": "2", "g": "50"}
    parts = [[texture(64, 96)] * 40, [texture(96, 128)] * 40]
    path = write_parts(tmp_path / "a.ts", "libx264", [(options, in_pictures(part)) for part in parts])

    def codings(sampling: Sampling | None) -> set[tuple[object, ...] | None]:
        return {frame.coded for frame in decode_video(path, sampling=sampling)} - {None}

    assert len(codings(None)) == 2
    assert codings(SAMPLING) == codings(None)
    assert seen(path, SAMPLING, by_windows(7)) == seen(path, None, every)


@pytest.mark.parametrize("times_ms", [[40 * k + 3000 * (k > 50) for k in range(100)], list(range(0, 900, 9))])
def test_times_of_any_pace(tmp_path: Path, times_ms: list[int]) -> None:
    path = write_video(
        tmp_path / "a.mkv",
        pictures(len(times_ms)),
        codec="libx264",
        pix_fmt="yuv420p",
        times_ms=times_ms,
        bf="3",
    )
    assert seen(path, SAMPLING, by_windows(7)) == seen(path, None, every)


def test_frames_can_be_looked_at_when_the_file_is_closed(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4",
        scenes_of([50, 50]),
        codec="libx264",
        pix_fmt="yuv420p",
        rate=FPS,
        g="250",
        **PAIRS,
    )
    frames = list(decode_video(path, sampling=Sampling(2.0)))
    path.unlink()
    colors = [frame.pixels[24, 32] for frame in frames]
    expected = [picture[24, 32] for picture in scenes_of([50, 50])]
    assert np.abs(np.array(colors, int) - expected).max() < 12


@pytest.mark.parametrize(
    ("name", "skips"),
    [("pairs.mp4", True), ("hevc.mp4", True), ("layers.mp4", False), ("vp9.webm", False), ("av1.mp4", False)],
)
def test_only_codecs_that_say_what_is_referred_to(tmp_path: Path, name: str, skips: bool) -> None:
    path = write_video(tmp_path / name, scenes_of([4]), rate=FPS, **({"pix_fmt": "yuv420p"} | FORMATS[name]))
    with av.open(str(path)) as container:
        assert can_skip(container.streams.video[0]) is skips
