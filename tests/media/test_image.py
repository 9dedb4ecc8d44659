"""Still images: upright RGB, or the error that says whose fault it is."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from curation.errors import DecodeError, ProbeError
from curation.media import image as image_module
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


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(save, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save("turned.png", Image.fromarray(STORED), exif=exif)
    upright = UPRIGHT[orientation]
    assert np.array_equal(read_image(path), upright)
    width, height, codec, rotation = probe_image(path)
    assert (height, width) == upright.shape[:2]
    assert codec == "png"
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
    with pytest.raises(ProbeError, match=f"limit of {MAX_PIXELS}"):
        probe_image(path)


def test_a_large_image_is_refused_before_its_pixels_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(image_module, "MAX_PIXELS", 99)
    path = tmp_path / "large.png"
    path.write_bytes(png_header(10, 10))  # whoever looks for pixels finds a truncated file
    with pytest.raises(ProbeError, match="10x10 pixels are more than the limit of 99"):
        probe_image(path)


def test_the_limit_itself_is_allowed(save, monkeypatch):
    monkeypatch.setattr(image_module, "MAX_PIXELS", 24)
    assert probe_image(save("a.png", Image.fromarray(STORED)))[:2] == (6, 4)


def test_real_images_open_and_fail_like_pillow(shared_data):
    """image_open_matrix: Pillow 13.0.0 on the same files."""
    for name, known in expected(shared_data)["image_open_matrix"]["values"].items():
        path = shared_data / "image" / name
        if "open" in known:
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
