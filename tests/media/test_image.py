"""Still images: upright RGB, or the error that says whose fault it is."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import av
import numpy as np
import pytest
from PIL import Image, ImageFile

from curation.errors import DecodeError, ProbeError, UnsupportedMediaError
from curation.media.image import MAX_PIXELS, probe_image, read_image
from generated import cut_off, expected, texture

STORED = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3

# EXIF 2.32, tag 274: where row 0 and column 0 of the stored picture belong.
UPRIGHT = {
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.swapaxes(0, 1),
    6: STORED[::-1].swapaxes(0, 1),
    7: STORED[::-1, ::-1].swapaxes(0, 1),
    8: STORED.swapaxes(0, 1)[::-1],
}


@pytest.fixture
def save(tmp_path):
    def save_as(name, image, **options):
        path = tmp_path / name
        image.save(path, **options)
        return path

    return save_as


def png_header(width, height):
    """A PNG file that ends after its header: 8 bits, RGB."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.parametrize("name", ["turned.png", "turned.tif", "turned.webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(save, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True, "exact": True} if name.endswith(".webp") else {}
    path = save(name, Image.fromarray(STORED), exif=exif, **lossless)
    upright = UPRIGHT[orientation]
    assert np.array_equal(read_image(path), upright)
    width, height, codec, rotation = probe_image(path)
    assert (height, width) == upright.shape[:2]
    assert codec == {"png": "png", "tif": "tiff", "ebp": "webp"}[name[-3:]]
    assert rotation == {3: 180, 6: 90, 8: 270}.get(orientation, 0)


def test_broken_exif_is_ignored(save):
    path = save("odd.jpg", Image.fromarray(STORED), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert probe_image(path)[:2] == (6, 4)
    assert read_image(path).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        # By hand: color * alpha + 255 * (1 - alpha), alpha = 102 / 255 = 0.4.
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (250, 0, 50, 102)), (253, 153, 173)),
        (Image.new("RGBA", (2, 2), (250, 0, 50, 255)), (250, 0, 50)),
        (Image.new("LA", (2, 2), (100, 102)), (193, 193, 193)),
        (Image.new("L", (2, 2), 100), (100, 100, 100)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
    ],
    ids=["clear", "half-clear", "opaque", "gray-alpha", "gray", "bit"],
)
def test_transparency_is_composited_on_white(save, stored, seen):
    pixels = read_image(save("a.png", stored))
    assert pixels.shape == (2, 2, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - seen).max() <= 1


def test_a_transparent_color_becomes_white(save):
    stored = np.zeros((1, 2, 3), np.uint8)
    stored[0, 1] = (9, 8, 7)
    path = save("a.png", Image.fromarray(stored), transparency=(9, 8, 7))
    assert read_image(path).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_a_palette_gives_its_colors(save):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    assert read_image(save("a.png", image)).tolist() == [[[10, 20, 30], [200, 100, 0], [0, 0, 255]]]
    pixels = read_image(save("b.png", image, transparency=1))
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_gray_is_scaled_not_clipped(save, name):
    stored = np.array([[0, 257, 2570, 32768, 51400, 65535]], np.uint16)
    gray = read_image(save(name, Image.fromarray(stored)))[..., 0]
    # 65535 is white: v / 257.
    assert np.abs(gray[0].astype(int) - [0, 1, 10, 127.5, 200, 255]).max() <= 1


def test_cmyk_becomes_rgb(save):
    stored = np.array(
        [[[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8
    )
    pixels = read_image(save("a.tif", Image.fromarray(stored, "CMYK")))
    # Subtractive: cyan, magenta, yellow, black, paper.
    cyan, magenta, yellow = (0, 255, 255), (255, 0, 255), (255, 255, 0)
    assert pixels[0].tolist() == [
        list(color) for color in (cyan, magenta, yellow, (0, 0, 0), (255, 255, 255))
    ]


def icc_profile(space, curves, colorants=(), description="for tests"):
    """An ICC version 2 display profile (ICC.1:2001-04) of one gamma curve per channel."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = description.encode() + b"\0"
    white = (0.9642, 1.0, 0.8249)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 3 + 67),
        b"wtpt": b"XYZ " + bytes(4) + fixed(*white),
        b"cprt": b"text" + bytes(4) + b"none\0",
    }
    for name, gamma in curves.items():
        tags[name] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    for name, colorant in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=False):
        tags[name] = b"XYZ " + bytes(4) + fixed(*colorant)
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"", 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(*white) + bytes(48)
    return head + table + data


SRGB_COLORANTS = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
"""Red, green, blue of sRGB in XYZ, adapted to D50 (as in IEC 61966-2-1 profiles)."""


def rgb_profile(order=(0, 1, 2), gamma=1.0, description="for tests"):
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma)
    return icc_profile(b"RGB ", curves, [SRGB_COLORANTS[place] for place in order], description)


def encoded(linear):
    """IEC 61966-2-1: linear light 0..1 as 0..255."""
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


PRIMARIES = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_a_profile_is_applied(save, name):
    """Its first channel is what sRGB calls green, its second blue, its third red."""
    lossless = {"lossless": True} if name == "a.webp" else {"quality": 100, "subsampling": 0}
    path = save(
        name, Image.fromarray(PRIMARIES), icc_profile=rgb_profile(order=(1, 2, 0), gamma=2.2), **lossless
    )
    moved = PRIMARIES[..., [2, 0, 1]]
    assert np.abs(read_image(path).astype(int) - moved).max() <= (3 if name == "a.jpg" else 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P"])
def test_linear_light_is_encoded_whatever_the_mode(save, mode):
    gray = np.array([[0, 13, 55, 128, 200, 255]], np.uint8)  # nearer to black lcms interpolates
    image = Image.fromarray(gray)
    image = image.convert("RGB").quantize(8) if mode == "P" else image.convert(mode)
    stored = np.asarray(image.convert("L"))
    kind = icc_profile(b"GRAY", {b"kTRC": 1.0}) if mode in ("L", "LA") else rgb_profile()
    pixels = read_image(save("a.png", image, icc_profile=kind))
    wanted = [encoded(value / 255) for value in stored[0]]
    assert np.abs(pixels[0].astype(float) - np.array(wanted)[:, None]).max() <= 1.0


def test_colors_are_managed_before_they_are_composited(save):
    """Half-clear linear gray 55 is 128 in sRGB; (128 + 255) / 2."""
    path = save("a.png", Image.new("RGBA", (2, 2), (55, 55, 55, 128)), icc_profile=rgb_profile())
    assert np.abs(read_image(path).astype(int) - 191).max() <= 1


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        rgb_profile()[:200],
        icc_profile(b"GRAY", {b"kTRC": 1.0}),
        rgb_profile(order=(1, 2, 0), description="my sRGB"),
    ],
    ids=["broken", "cut off", "for gray", "says that it is sRGB"],
)
def test_a_profile_that_does_not_apply_is_ignored(save, profile):
    path = save("a.png", Image.fromarray(PRIMARIES), icc_profile=profile)
    assert np.array_equal(read_image(path), PRIMARIES)


def test_real_adobe_rgb_becomes_srgb(shared_data):
    """sk_rocket.jpg is Adobe RGB (1998). By its published matrix and gamma 563/256, without a library."""
    path = shared_data / "image/sk_rocket.jpg"
    stored = np.asarray(Image.open(path)).astype(float) / 255
    to_xyz = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    to_srgb = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    linear = np.clip(stored ** (563 / 256) @ np.array(to_xyz).T @ np.array(to_srgb).T, 0, 1)
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    difference = np.abs(read_image(path) - wanted)
    assert difference.mean() < 0.6
    assert np.percentile(difference, 99.9) <= 2.5


def test_lab_becomes_rgb(save):
    """CIE 1976 L* of a gray is 116 * cbrt(Y) - 16: 18 % of white is 49.5, and 118 in sRGB."""
    lab = Image.merge("LAB", [Image.new("L", (4, 4), round(49.5 * 2.55)), *[Image.new("L", (4, 4), 128)] * 2])
    assert np.abs(read_image(save("a.tif", lab)).astype(int) - round(encoded(0.18))).max() <= 2


def test_cmyk_jpegs_are_inverted_as_adobe_writes_them(save):
    inks = Image.merge("CMYK", [Image.new("L", (16, 16), ink) for ink in (255, 0, 0, 0)])
    path = save("a.jpg", inks, quality=100)
    assert b"Adobe" in path.read_bytes()[:1000]
    assert np.abs(read_image(path).astype(int) - (0, 255, 255)).max() <= 3


@pytest.mark.parametrize("stored", [np.float32([[0, 0.5, 1]]), np.int32([[0, 70_000, 2**30]])])
def test_numbers_of_which_white_is_not_known_are_refused(save, stored):
    with pytest.raises(UnsupportedMediaError, match="white is not known"):
        read_image(save("a.tif", Image.fromarray(stored)))


def test_16_bit_gray_with_a_transparent_value(save):
    stored = Image.fromarray(np.array([[0, 2570, 65535]], np.uint16))
    assert read_image(save("a.png", stored, transparency=2570))[0, :, 0].tolist() == [0, 255, 255]
    assert read_image(save("b.png", stored))[0, :, 0].tolist() == [0, 10, 255]


@pytest.mark.parametrize("late", [False, True])
def test_exif_of_a_png_counts_before_and_after_the_pixels(save, late):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save("a.png", Image.fromarray(STORED), exif=exif)
    if late:
        data = path.read_bytes()
        at = data.index(b"eXIf") - 4
        size = 12 + struct.unpack(">I", data[at : at + 4])[0]
        end = data.index(b"IEND") - 4
        path.write_bytes(data[:at] + data[at + size : end] + data[at : at + size] + data[end:])
    assert probe_image(path)[:2] == (4, 6)
    assert np.array_equal(read_image(path), UPRIGHT[6])


def test_probing_a_png_does_not_decode_it(save, monkeypatch):
    path = save("a.png", Image.fromarray(STORED))

    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    assert probe_image(path)[:2] == (6, 4)


def test_heic_is_read(shared_data):
    """FFmpeg, through PyAV, reads the same photo: its size, and its colors as it converts them."""
    path = shared_data / "image/exo_sample_still_photo.heic"
    with av.open(str(path)) as file:
        theirs = next(file.decode(video=0)).to_ndarray(format="rgb24")
    width, height, codec, _ = probe_image(path)
    assert (height, width, codec) == (*theirs.shape[:2], "heif")
    assert np.abs(read_image(path).astype(int) - theirs).mean() < 3


def test_heic_without_its_plugin_says_what_is_missing(shared_data):
    """In a process of its own: a plugin can't be taken out again."""
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path; from curation.media.image import probe_image\n"
        f"probe_image(Path({str(shared_data / 'image/exo_sample_still_photo.heic')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ProbeError: HEIC needs the package pillow-heif: pip install 'curation[heic]'" in done.stderr


def test_of_an_animation_the_first_frame_counts(save):
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    path = save("a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_a_truncated_image_is_a_decode_error(save, name):
    path = cut_off(save(name, Image.fromarray(texture(64, 80, cell=1))), 0.6)
    with pytest.raises(DecodeError):
        read_image(path)


def test_a_truncated_image_still_has_a_header(save):
    path = cut_off(save("a.jpg", Image.fromarray(texture(64, 80, cell=1))), 0.6)
    assert probe_image(path)[:2] == (80, 64)


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_image_is_a_probe_error(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ProbeError) as caught:
        probe_image(path)
    assert str(tmp_path) not in str(caught.value)


def test_a_bomb_is_refused_from_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(20_000, 20_000))
    with pytest.raises(ProbeError, match=f"more pixels than max_pixels: {MAX_PIXELS}"):
        probe_image(path)


def test_a_large_image_is_refused_before_its_pixels_are_looked_at(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(10, 10))  # whoever looks for pixels finds a truncated file
    with pytest.raises(ProbeError, match="more pixels than max_pixels: 99"):
        probe_image(path, 99)
    with pytest.raises(DecodeError, match="more pixels than max_pixels: 99"):
        read_image(path, 99)


def test_the_limit_itself_is_allowed(save):
    path = save("a.png", Image.fromarray(STORED))
    assert probe_image(path, 24)[:2] == (6, 4)
    assert read_image(path, 24).shape == (4, 6, 3)


def test_a_limit_above_that_of_pillow_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "large.png"
    path.write_bytes(png_header(10, 10))
    assert probe_image(path, 100)[:2] == (10, 10)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_size_that_is_hidden_behind_the_header_is_refused_too(save):
    """The entry of an icon says 48x48; the PNG that it points to is larger."""
    path = save("a.ico", Image.fromarray(texture(48, 48)), sizes=[(48, 48)])
    data = path.read_bytes()
    at = data.index(b"IHDR") + 4
    header = b"IHDR" + struct.pack(">II", 500, 400) + data[at + 8 : at + 13]
    path.write_bytes(data[: at - 4] + header + struct.pack(">I", zlib.crc32(header)) + data[at + 17 :])
    with pytest.raises(DecodeError, match="more pixels than max_pixels: 99999"):
        read_image(path, 99_999)


def test_real_images_open_and_fail_like_pillow(shared_data):
    """image_open_matrix: Pillow 13.0.0 on the same files, EXIF read as part of opening.

    A PNG's pixels are not looked at for that here, so damaged ones fail when read. Of HEIC it had no plugin.
    """
    for name, known in expected(shared_data)["image_open_matrix"]["values"].items():
        path = shared_data / "image" / name
        if name.endswith(".heic"):
            continue
        if "open" in known:
            with pytest.raises((ProbeError, DecodeError)):
                read_image(path)
            if not known["open"].startswith("OSError"):
                with pytest.raises(ProbeError):
                    probe_image(path)
            continue
        width, height = known["size"]
        if known["exif_orientation"] in (5, 6, 7, 8):
            width, height = height, width
        assert probe_image(path)[:2] == (width, height), name
        if known["load"] == "ok":
            assert read_image(path).shape == (height, width, 3), name
        else:
            with pytest.raises(DecodeError):
                read_image(path)


def test_real_16_bit_gray_looks_like_its_8_bit_twin(shared_data):
    """pil_hopper_16bit.pgm holds its own samples, read here from the file's bytes."""
    path = shared_data / "image/pil_hopper_16bit.pgm"
    samples = np.frombuffer(path.read_bytes()[-128 * 128 * 2 :], ">u2").reshape(128, 128)
    gray = read_image(path)[..., 0].astype(float)
    assert np.abs(gray - samples / 257).max() <= 1.0


def test_a_real_photo_has_the_pixels_of_its_file(shared_data):
    path = shared_data / "image/sk_astronaut.png"
    assert np.array_equal(read_image(path), np.asarray(Image.open(io.BytesIO(path.read_bytes()))))


@pytest.mark.parametrize("size", [(640, 480), (641, 479), (2000, 1000), (130, 900), (127, 300)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_as_small_as_its_short_side_may_be(tmp_path, size, orientation):
    picture = Image.fromarray(texture(*size[::-1], cell=60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", quality=95, exif=exif)
    picture.save(tmp_path / "a.png", exif=exif)
    full, small = read_image(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg", short_side=128)
    scale = max(scale for scale in (1, 2, 4, 8) if scale == 1 or min(size) // scale >= 128)
    # ITU-T T.81 blocks of 8 x 8 come as 8 / scale: sides are rounded up.
    assert small.shape[:2] == tuple(-(-side // scale) for side in full.shape[:2])
    height, width = (side // scale * scale for side in full.shape[:2])
    means = full[:height, :width].reshape(height // scale, scale, width // scale, scale, 3).mean(axis=(1, 3))
    assert np.abs(small[: means.shape[0], : means.shape[1]] - means).mean() < 2
    whole = read_image(tmp_path / "a.png", short_side=128)
    np.testing.assert_array_equal(whole, read_image(tmp_path / "a.png"))


def test_cmyk_counts_in_small_jpegs_too(tmp_path):
    picture = Image.fromarray(texture(512, 512)).convert("CMYK")
    picture.save(tmp_path / "a.jpg", quality=95)
    full, small = read_image(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg", short_side=128)
    assert small.shape == (128, 128, 3)
    assert np.abs(small - full.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))).mean() < 3


def test_a_cut_off_jpeg_fails_when_decoded_small_too(tmp_path):
    Image.fromarray(texture(512, 512)).save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(DecodeError):
        read_image(tmp_path / "a.jpg", short_side=64)
