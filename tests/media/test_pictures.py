"""From decoded pictures to frames: orientation, one size, fields, HDR, and the limit on pixels."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from curation.errors import DecodeError, ProbeError
from curation.media.decode import decode_video, probe_video
from curation.media.decord import refusal
from curation.media.image import MAX_PIXELS
from curation.media.pictures.filters import RGBConverter, build_graph
from curation.media.pictures.orientation import UPRIGHT, Orientation, from_matrix
from curation.media.pictures.render import Rendering, square_width
from curation.media.pictures.tonemap import ToneMapper
from generated import a_source, cut_off, texture, with_matrix, write_video
from pictures_media import (
    HDR_CODES,
    combing,
    filtered,
    hdr_planes,
    moving_bar,
    write_changing,
    write_hdr,
    write_interlaced,
)

GOLDEN = Path(__file__).parent / "golden"
FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(
    FFMPEG is None, reason="compares with the program ffmpeg, beside other tests"
)


def by_ffmpeg(path, *filters, like):
    """What the program ffmpeg shows, as [T, H, W, 3] of the same shape as `like`."""
    chain = ["-vf", ",".join(filters)] if filters else []
    command = [FFMPEG, "-v", "error", "-i", path, *chain, "-vsync", "passthrough"]
    done = subprocess.run(
        [*command, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True
    )
    return np.frombuffer(done.stdout, np.uint8).reshape(like.shape)


def frames_of(path, **rendering):
    return np.stack([frame.pixels for frame in decode_video(path, 0.0, Rendering(**rendering))])


def distance(ours, theirs):
    return np.abs(ours.astype(int) - theirs)


# RGB


def noise(pix_fmt, height, width, colorspace, color_range):
    random = np.random.default_rng(height)
    picture = av.VideoFrame(width, height, pix_fmt)
    for plane in picture.planes:
        kind = np.uint16 if "10le" in pix_fmt else np.uint8
        highest = 1024 if "10le" in pix_fmt else 256
        number = plane.buffer_size // np.dtype(kind).itemsize
        plane.update(random.integers(0, highest, number, dtype=kind).tobytes())
    picture.colorspace, picture.color_range = colorspace, color_range
    return picture


def test_one_converter_gives_every_picture_the_pixels_that_its_own_would():
    """The reference is PyAV's `to_ndarray`, which sets up FFmpeg's converter for each picture anew."""
    convert = RGBConverter()
    formats = ("yuv420p", "yuvj420p", "yuv444p", "yuv422p10le", "gray", "rgb24", "nv12", "gbrp")
    for pix_fmt in formats:
        for height, width in ((48, 64), (37, 51), (1, 1)):
            for colorspace, color_range in ((1, 1), (9, 2), (0, 0)):
                picture = noise(pix_fmt, height, width, colorspace, color_range)
                assert np.array_equal(convert(picture), picture.to_ndarray(format="rgb24"))


# Orientation

MATRICES = {
    "as stored": (1, 0, 0, 1),
    "turned by 90": (0, 1, -1, 0),
    "turned by 180": (-1, 0, 0, -1),
    "turned by 270": (0, -1, 1, 0),
    "left to right": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}
"""a, b, c, d of an MP4 track matrix: x' = ax + cy, y' = bx + dy (ISO/IEC 14496-12)."""


def h264(path, frames, **options):
    return write_video(path, frames, codec="libx264", pix_fmt="yuv420p", preset="ultrafast", **options)


def moved(pixels, a, b, c, d):
    """Every pixel at the place that the matrix sends it to."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    result = np.empty((down.max() + 1, across.max() + 1, 3), np.uint8)
    result[down, across] = pixels
    return result


@pytest.mark.parametrize("name", MATRICES)
def test_every_orientation_is_followed(tmp_path, name):
    path = h264(tmp_path / "a.mp4", [texture(48, 64)] * 2)
    stored = next(decode_video(path)).pixels
    with_matrix(path, *MATRICES[name])
    header = probe_video(path)
    shown = frames_of(path)
    assert (header.height, header.width) == shown.shape[1:3]
    assert np.array_equal(shown[0], moved(stored, *MATRICES[name]))
    if FFMPEG:
        assert np.array_equal(shown, by_ffmpeg(path, like=shown))


def test_flips_are_told_beside_the_rotation(tmp_path):
    """hflip and vflip as FFmpeg calls them; the two transpositions are a mirrored turn each."""
    found = {}
    for name, matrix in MATRICES.items():
        path = with_matrix(h264(tmp_path / "a.mp4", [texture(48, 64)]), *matrix)
        header = probe_video(path)
        found[name] = (header.mirrored, header.rotation)
    assert found == {
        "as stored": (False, 0),
        "turned by 90": (False, 90),
        "turned by 180": (False, 180),
        "turned by 270": (False, 270),
        "left to right": (True, 0),
        "upside down": (True, 180),
        "transposed": (True, 270),
        "transposed the other way": (True, 90),
    }


@pytest.mark.parametrize(("degrees", "turn"), [(20, 0), (44, 0), (46, 90), (100, 90), (350, 0)])
def test_other_angles_are_those_of_the_nearest_quarter(tmp_path, degrees, turn):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    path = with_matrix(h264(tmp_path / "a.mp4", [texture(48, 64)]), cos, sin, -sin, cos)
    header = probe_video(path)
    assert (header.rotation, header.mirrored) == (turn, False)
    assert next(decode_video(path)).pixels.shape[:2] == (header.height, header.width)
    assert (header.height, header.width) == ((64, 48) if turn else (48, 64))


def test_a_matrix_that_flattens_is_ignored():
    assert from_matrix(0, 0, 0, 0) == from_matrix(0, 1, 0, 1) == UPRIGHT
    assert from_matrix(-3, 0, 0, 2) == Orientation(0, mirrored=True)


def test_real_flips(shared_data):
    """cases/mirror: one video under four matrices, of which one does nothing."""
    folder = shared_data / "cases/mirror/in"
    plain = frames_of(folder / "plain.mp4")
    assert np.array_equal(frames_of(folder / "hflip.mp4"), plain[:, :, ::-1])
    assert np.array_equal(frames_of(folder / "vflip.mp4"), plain[:, ::-1])
    assert np.array_equal(frames_of(folder / "rot90.mp4"), np.rot90(plain, -1, axes=(1, 2)))


# Sizes that change


@pytest.fixture
def changing(tmp_path):
    big = [texture(96, 128, seed=seed) for seed in range(50)]
    small = [texture(48, 72, seed=seed, cell=16) for seed in range(50)]
    return write_changing(tmp_path / "a.mkv", [big, small, big[:10]])


def test_frames_have_the_first_ones_size(changing):
    """FFmpeg's scale filter with its default flags is what the program inserts when a stream changes."""
    shown = frames_of(changing)
    assert shown.shape == (110, 96, 128, 3)
    with av.open(str(changing)) as file:
        pictures = list(file.decode(video=0))
    assert {(picture.width, picture.height) for picture in pictures} == {(128, 96), (72, 48)}
    scale = [("scale", "128:96:flags=bicubic"), ("format", "rgb24")]
    for number, picture in enumerate(filtered(pictures[50:100], *scale), start=50):
        assert np.array_equal(shown[number], picture.to_ndarray())
    for number in (0, 49, 100, 109):
        assert np.array_equal(shown[number], pictures[number].to_ndarray(format="rgb24"))


@needs_ffmpeg
def test_frames_of_any_size_are_those_of_ffmpeg(changing):
    shown = frames_of(changing)
    theirs = by_ffmpeg(changing, like=shown)
    assert np.array_equal(shown[:50], theirs[:50])
    assert distance(shown, theirs).mean() < 0.5  # releases of FFmpeg scale with other rounding


def test_a_size_that_changes_is_the_probed_one_from_the_middle_on_too(changing):
    header = probe_video(changing)
    size = (header.height, header.width)
    all_frames = {round(frame.pts_s, 6): frame.pixels for frame in decode_video(changing)}
    for start_s in (2.6, 3.5):
        found = decode_video(changing, start_s, Rendering(size))
        for frame in found:
            assert frame.pixels.shape[:2] == size
            if frame.pts_s >= start_s:
                assert np.array_equal(frame.pixels, all_frames[round(frame.pts_s, 6)])


def test_turned_and_wide_pictures_are_scaled_to_what_is_shown(tmp_path):
    """A frame of another size, sideways: shown at the size asked for, and with the same picture."""
    smooth = texture(48, 64, cell=32)
    path = with_matrix(h264(tmp_path / "a.mp4", [smooth], aspect=Fraction(3, 2)), 0, 1, 1, 0)
    own = frames_of(path)[0]
    assert own.shape[:2] == (96, 48)  # 64 * 3 / 2, transposed
    larger = frames_of(path, size=(192, 96))[0]
    assert larger.shape[:2] == (192, 96)
    halved = larger.reshape(96, 2, 48, 2, 3).mean(axis=(1, 3))
    assert distance(own, halved).mean() < 3


def test_frames_tell_how_they_are_stored(changing, tmp_path):
    assert len({frame.coded for frame in decode_video(changing)}) == 2
    whole = write_changing(tmp_path / "b.mkv", [[texture(48, 72)] * 5])
    assert len({frame.coded for frame in decode_video(whole)}) == 1


# Fields


BWDIF = ("bwdif", "mode=send_frame:parity=auto:deint=interlaced")


def streamed(path):
    """The whole file through one filter, as FFmpeg does it."""
    with av.open(str(path)) as file:
        return [picture.to_ndarray(format="rgb24") for picture in filtered(file.decode(video=0), BWDIF)]


def test_interlaced_video_is_deinterlaced(tmp_path):
    """The moment of a frame is that of its first field: a bar that moves 3 pixels per field moves 6."""
    path = write_interlaced(tmp_path / "a.ts", 25)
    assert probe_video(path).interlaced
    frames = list(decode_video(path))
    assert [frame.index for frame in frames] == list(range(25))
    with av.open(str(path)) as file:
        woven = list(file.decode(video=0))
    assert [frame.pts_s for frame in frames] == [picture.time for picture in woven]
    assert min(combing(picture.to_ndarray(format="rgb24")) for picture in woven) > 4
    for number, frame in enumerate(frames):
        assert combing(frame.pixels) < 0.5
        assert distance(frame.pixels, moving_bar(2 * number)).mean() < 2
    assert all(np.array_equal(a.pixels, b) for a, b in zip(frames, streamed(path), strict=True))


def test_frames_that_are_looked_at_in_any_order_are_the_same(tmp_path):
    frames = list(decode_video(write_interlaced(tmp_path / "a.ts", 12)))
    backwards = [frame.pixels for frame in reversed(list(decode_video(tmp_path / "a.ts")))][::-1]
    assert np.array_equal(backwards, [frame.pixels for frame in frames])


def test_in_mixed_video_only_interlaced_frames_change(tmp_path):
    path = write_interlaced(tmp_path / "a.ts", 0, 9, 9, 9)
    assert not probe_video(path).interlaced  # its first frame is not
    with av.open(str(path)) as file:
        stored = list(file.decode(video=0))
    shown = frames_of(path)
    assert [picture.interlaced_frame for picture in stored] == [False] * 9 + [True] * 9 + [False] * 9
    for picture, pixels in zip(stored, shown, strict=True):
        same = np.array_equal(picture.to_ndarray(format="rgb24"), pixels)
        assert same != picture.interlaced_frame
    # The first after progressive ones has no field before it to look at.
    assert all(
        np.array_equal(ours, theirs) for ours, theirs in zip(shown[10:], streamed(path)[10:], strict=True)
    )


@pytest.mark.parametrize("nums", [(75,), (20, 40, 20)])
def test_deinterlaced_frames_are_the_same_from_the_middle(tmp_path, nums):
    """Of the mixed one, decoding begins among progressive frames and comes to interlaced ones."""
    path = write_interlaced(tmp_path / "a.mkv", *nums)
    frames = {round(frame.pts_s, 6): frame.pixels for frame in decode_video(path)}
    first_s = min(frames)
    for start_s in (first_s + 1.5, first_s + 2.3):
        found = {round(frame.pts_s, 6): frame.pixels for frame in decode_video(path, start_s)}
        assert len(found) < len(frames)
        for time_s in [time_s for time_s in frames if time_s >= start_s]:
            assert np.array_equal(found[time_s], frames[time_s]), (start_s, time_s)


def test_an_interlaced_video_that_breaks_off_gives_all_frames_before(tmp_path):
    """One frame waits for its successor when the stream ends: it is given before the error."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(50)]
    path = cut_off(h264(tmp_path / "a.mp4", noise, movflags="faststart", **{"x264-params": "tff=1"}), 0.6)
    assert probe_video(path).interlaced
    seen = []
    with pytest.raises(DecodeError) as caught:
        seen.extend(frame.index for frame in decode_video(path))
    assert seen == list(range(len(seen)))
    assert 25 <= len(seen) <= 35
    assert str(caught.value).startswith(f"stopped after {len(seen)} of 50 frames: ")


# HDR

MEAN_LEVELS, MOST_LEVELS = 0.7, 4
"""How far from FFmpeg's own tone mapping, of 255: on average, and 99 of 100 values."""
CHAIN = (
    "zscale=t=linear:npl=100:agamma=0",
    "format=gbrpf32le",
    "zscale=p=bt709",
    "tonemap=tonemap=hable:desat=0:peak=10",
    "zscale=t=bt709",
    "format=gbrp",
)


def assert_close(ours, theirs):
    """Chroma is brought to full size by other kernels, which is seen where it changes fast.

    With chroma taken to lie at the center, half a pixel off, means are 2.3 and 4.2.
    """
    off = distance(ours, theirs)
    assert off.mean() < MEAN_LEVELS
    assert np.quantile(off, 0.99) <= MOST_LEVELS


@pytest.mark.parametrize("transfer", HDR_CODES)
def test_hdr_looks_like_ffmpeg_tone_maps_it(tmp_path, transfer):
    """The golden frames are made by ffmpeg 5.1.9, with zscale 3.0, from a clip that `write_hdr` writes:

    ffmpeg -i TRANSFER.mp4 -frames:v 1 -vf CHAIN golden/TRANSFER.png    (CHAIN: above, joined by commas)
    """
    path = write_hdr(tmp_path / f"{transfer}.mp4", hdr_planes(), transfer)
    assert probe_video(path).color_transfer == transfer
    shown = frames_of(path)
    assert_close(shown[0], np.asarray(Image.open(GOLDEN / f"{transfer}.png")))
    if has_zscale():
        assert_close(shown, by_ffmpeg(path, *CHAIN, like=shown))


def has_zscale():
    """Whether a program ffmpeg with zscale is there."""
    if FFMPEG is None:
        return False
    filters = subprocess.run([FFMPEG, "-hide_banner", "-filters"], capture_output=True, text=True, check=True)
    return " zscale " in filters.stdout


def hable(light):
    return (light * (light * 0.15 + 0.05) + 0.004) / (light * (light * 0.15 + 0.5) + 0.06) - 0.02 / 0.3


@pytest.mark.parametrize(("nits", "code"), [(100, 509), (203, 573), (1000, 723), (10, 327), (10_000, 940)])
def test_gray_in_pq_comes_out_by_hand(tmp_path, nits, code):
    """Code values of ITU-R BT.2408 and of ST 2084 itself, 64 + 876 E'; the curve with a peak of 1000."""
    planes = [np.full((96, 128), value, np.uint16) for value in (code, 512, 512)]
    shown = frames_of(write_hdr(tmp_path / "a.mp4", planes, "smpte2084"))
    expected = 255 * min(1.0, hable(nits / 100) / hable(10)) ** (1 / 2.4)
    assert np.abs(shown - expected).max() <= 1.5


def test_hdr_can_be_taken_as_it_is(tmp_path):
    path = write_hdr(tmp_path / "a.mp4", hdr_planes(), "smpte2084")
    with av.open(str(path)) as file:
        as_stored = [picture.to_ndarray(format="rgb24") for picture in file.decode(video=0)]
    flagged = frames_of(path, tone_maps=False)
    assert np.array_equal(flagged, as_stored)
    assert distance(frames_of(path), flagged).mean() > 10


@pytest.mark.parametrize(
    ("pixel_format", "color_range", "white"),
    [
        ("yuv420p10le", 1, (940, 512, 512)),
        ("yuv422p12le", 1, (3760, 2048, 2048)),
        ("yuv444p10le", 2, (1023, 512, 512)),
        ("yuv420p", 1, (235, 128, 128)),
        ("gbrp10le", 2, (1023, 1023, 1023)),
    ],
)
def test_white_is_white_in_every_format(pixel_format, color_range, white):
    """HLG's nominal peak is the display's: 255. Three quarters of it: BT.2100's formula, by hand."""
    for share in (1.0, 0.75):
        picture = av.VideoFrame(64, 16, pixel_format)
        picture.color_trc, picture.color_primaries, picture.colorspace = 18, 9, 9
        picture.color_range = color_range
        black = 0 if color_range == 2 else white[0] * 16 // 235
        levels = (round(black + share * (white[0] - black)), *white[1:])
        expected = hlg_gray((levels[0] - black) / (white[0] - black))
        if pixel_format.startswith("gbr"):
            levels = (levels[0],) * 3
        for plane, level in zip(picture.planes, levels, strict=True):
            kind = np.uint8 if pixel_format == "yuv420p" else np.uint16
            plane.update(np.full(plane.buffer_size // kind().itemsize, level, kind).tobytes())
        assert np.abs(ToneMapper()(picture) - expected).max() <= 0.6


def hlg_gray(signal):
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = (math.exp((signal - c) / a) + b) / 12
    return 255 * (hable(10 * scene**1.2) / hable(10)) ** (1 / 2.4)


def test_hdr_of_the_colors_of_sdr_keeps_them():
    """With BT.709's own primaries nothing is left to convert: red goes through the curve alone."""
    picture = av.VideoFrame(64, 16, "gbrp10le")
    picture.color_trc, picture.color_primaries, picture.color_range = 16, 1, 2
    for plane, level in zip(picture.planes, (0, 0, 600), strict=True):  # green, blue, red
        plane.update(np.full(plane.buffer_size // 2, level, np.uint16).tobytes())
    root = (600 / 1023) ** (1 / 78.84375)
    nits = 10_000 * ((root - 0.8359375) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    red = round(255 * (hable(nits / 100) / hable(10)) ** (1 / 2.4))
    assert ToneMapper()(picture)[8, 32].tolist() == [pytest.approx(red, abs=1), 0, 0]


def test_hdr_in_fields_is_deinterlaced_first():
    """A broadcast in HLG: the filter before tone mapping takes 10 bits."""
    picture = av.VideoFrame(64, 16, "yuv420p10le")
    graph = build_graph(picture, [BWDIF])
    graph.push(picture)
    graph.push(None)
    assert graph.pull().format.name == "yuv420p10le"


def test_real_hdr(shared_data):
    """HDR10 in HEVC and AV1: no brighter than taken as it is where it is dull, and whole in its range."""
    for name in ("exo_hdr10-video-with-sdr-container.mp4", "exo_sample_with_colr_mdcv_and_clli.mp4"):
        path = shared_data / "video" / name
        mapped = next(decode_video(path)).pixels
        flagged = next(decode_video(path, 0.0, Rendering(tone_maps=False))).pixels
        assert mapped.std() > flagged.std()
        if has_zscale():
            theirs = by_ffmpeg(path, *CHAIN, "select=eq(n\\,0)", like=mapped)
            assert distance(mapped, theirs).mean() < 1


# The limit on pixels


def test_a_video_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    path = h264(tmp_path / "a.mp4", [texture(48, 64)])
    assert probe_video(path, max_pixels=48 * 64).width == 64
    with pytest.raises(ProbeError, match=r"more pixels than max_pixels: 3071 \(64x48\)"):
        probe_video(path, max_pixels=48 * 64 - 1)
    with pytest.raises(
        DecodeError, match=r"stopped after 0 of 1 frames: it has more pixels than max_pixels: 99"
    ):
        list(decode_video(path, 0.0, Rendering(max_pixels=99)))


def test_pixels_are_counted_as_they_are_shown(tmp_path):
    path = h264(tmp_path / "a.mp4", [texture(48, 64)], aspect=Fraction(3, 2))
    assert probe_video(path, max_pixels=96 * 48).width == 96
    with pytest.raises(ProbeError, match=r"max_pixels: 4607 \(64x48, shown as 96x48\)"):
        probe_video(path, max_pixels=96 * 48 - 1)
    narrow = h264(tmp_path / "b.mp4", [texture(48, 64)], aspect=Fraction(1, 2))
    assert probe_video(narrow).width == 32
    with pytest.raises(ProbeError, match="max_pixels: 3000"):
        probe_video(narrow, max_pixels=3000)  # decoded, it has 3072


def with_aspect(path, aspect, of_pixels):
    """Write another pixel aspect into an MP4 file that has `aspect`: the container's word counts."""
    data = path.read_bytes()
    was = struct.pack(">4sII", b"pasp", *aspect.as_integer_ratio())
    assert was in data
    path.write_bytes(data.replace(was, struct.pack(">4sII", b"pasp", *of_pixels)))
    return path


def test_an_absurd_pixel_aspect_is_refused_by_the_figure(tmp_path):
    path = h264(tmp_path / "a.mp4", [texture(48, 64)], aspect=Fraction(3, 2))
    assert probe_video(with_aspect(path, Fraction(3, 2), (100, 1))).width == 6400  # as players show it
    with_aspect(path, Fraction(100), (65_535, 1))
    with pytest.raises(ProbeError, match=rf"max_pixels: {MAX_PIXELS} \(64x48, shown as 4194240x48\)"):
        probe_video(path)


def test_an_aspect_of_nothing_is_square():
    assert [square_width(64, aspect) for aspect in (None, Fraction(0), Fraction(-4, 3))] == [64, 64, 64]
    assert square_width(64, Fraction(1, 65_535)) == 1


def test_frames_that_grow_are_refused_where_they_do(tmp_path):
    path = write_changing(tmp_path / "a.mkv", [[texture(48, 72)] * 5, [texture(96, 128)] * 5])
    assert frames_of(path).shape == (10, 48, 72, 3)
    with pytest.raises(
        DecodeError, match=r"stopped after 5 frames: it has more pixels than max_pixels: 9999 \(128x96\)"
    ):
        list(decode_video(path, 0.0, Rendering(max_pixels=9999)))


def test_the_real_file_of_wide_pixels(shared_data):
    """cases/pixel_aspect: 65535:1, which would be 1.9 GB a frame."""
    with pytest.raises(ProbeError, match="shown as 125827200x1080"):
        probe_video(shared_data / "cases/pixel_aspect/v.mp4")


# decord


def test_decord_takes_none_of_these():
    known = {"codec": "h264", "pixel_format": "yuv420p", "width": 64, "height": 64}
    assert refusal(a_source(**known)) is None
    for odd in ({"mirrored": True}, {"interlaced": True}, {"color_transfer": "arib-std-b67"}):
        assert "neither flips" in refusal(a_source(**known | odd))
    assert (
        refusal(a_source(**known | {"mirrored": False, "interlaced": False, "color_transfer": "bt709"}))
        is None
    )
