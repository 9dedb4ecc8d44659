"""Small images of every format and damaged copies of them; as a program, opens 2,000 of these.

    PYTHONPATH=tests python -m mutated FOLDER NUMBER

prints a JSON line: how many ended how, what was raised that should not be, and the memory held after
the first quarter, at the end, and at most.
"""

from __future__ import annotations

import faulthandler
import io
import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from curation.errors import SampleError
from curation.ingest.suffixes import kind_of
from curation.media.image import read_image
from curation.media.probe import probe
from curation.records import Source

MAX_PIXELS = 1_000_000
"""Limit for the damaged images, whose headers may promise anything."""


def small_images() -> dict[str, bytes]:
    """Name -> file: the formats, color modes and metadata that the reader has a path for."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    rgba = Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC)
    rgb, gray = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    about: dict[str, Any] = {"exif": exif, "icc_profile": profile}
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.jpg": (rgb, about),
        "progressive.jpg": (rgb, {"progressive": True}),
        "gray.jpg": (gray, {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "a.png": (rgba, about),
        "palette.png": (rgb.quantize(16), {"transparency": 3}),
        "deep.png": (deep, {"transparency": 257}),
        "bit.png": (gray.convert("1"), {}),
        "gray.png": (rgba.convert("LA"), {}),
        "a.webp": (rgba, about),
        "lossless.webp": (rgb, {"lossless": True}),
        "a.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "a.bmp": (rgb, {}),
        "palette.bmp": (rgb.quantize(16), {}),
        "a.tif": (rgb, about),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "deflate.tif": (deep, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "cmyk.tif": (rgb.convert("CMYK"), {}),
        "a.avif": (rgba, {"exif": exif}),
        "a.heic": (rgb, {}),
        "a.ico": (rgba, {"sizes": [(16, 16), (32, 32)]}),
        "a.ppm": (rgb, {}),
        "a.pgm": (deep, {}),
    }
    files = {}
    for name, (image, options) in made.items():
        form = {"jpg": "JPEG", "tif": "TIFF", "heic": "HEIF", "pgm": "PPM"}.get(name.rpartition(".")[2])
        file = io.BytesIO()
        image.save(file, form or name.rpartition(".")[2].upper(), **options)
        files[name] = file.getvalue()
    return files


def mutations(number: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Damaged files, by turns of every format; the same for the same seed."""
    draw = random.Random(seed)
    files = list(small_images().items())
    for count in range(number):
        name, data = files[count % len(files)]
        yield f"{count:04d}-{name}", damage(draw, data)


Way = Callable[[random.Random, bytearray], None]
"""One kind of damage."""


def damage(draw: random.Random, data: bytes, ways: Sequence[Way] | None = None) -> bytes:
    """A copy with one to four kinds of damage."""
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        draw.choice(ways or WAYS)(draw, damaged)
    return bytes(damaged)


def flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.randint(1, 8)):
        if data:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def edit_header(draw: random.Random, data: bytearray) -> None:
    """Sizes, counts, offsets: extreme values among the first bytes."""
    if len(data) > 8:
        at = draw.randrange(min(len(data) - 4, 200))
        size = draw.choice((1, 2, 4))
        data[at : at + size] = draw.choice((b"\xff", b"\x00", b"\x7f", b"\x80", b"\x01")) * size


def cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data) + 1) :]


def insert(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:at] = draw.randbytes(draw.randint(1, 64))


def zero(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.randint(1, 256))
    data[at:end] = bytes(end - at)


def repeat(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    part = data[at : at + draw.randint(1, 128)]
    data[at:at] = part * draw.randint(1, 20)


WAYS: tuple[Way, ...] = (flip, flip, edit_header, edit_header, cut, insert, zero, repeat)


def outcome(path: Path) -> str:
    """How a file ends: the format as which it was read, or the error by which it failed."""
    kind = kind_of(path.name)
    assert kind == "image"
    source = probe(Source(source_id="s", uri=path.name, kind=kind, size_bytes=1, etag="e"), path, MAX_PIXELS)
    if not source.ok:
        return f"failed {source.error_type}"
    try:
        pixels = read_image(path, MAX_PIXELS)
    except SampleError as error:
        return f"failed {type(error).__name__}"
    assert pixels.shape == (source.height, source.width, 3)
    assert pixels.dtype == np.uint8
    return f"read {source.codec}"


def held_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main(folder: Path, number: int) -> None:
    faulthandler.enable()
    counts: Counter[str] = Counter()
    escaped = []
    early = 0
    for count, (name, data) in enumerate(mutations(number)):
        path = folder / name.replace("-", ".", 1)
        path.write_bytes(data)
        try:
            counts[outcome(path)] += 1
        except Exception as error:  # noqa: BLE001  this is what is looked for
            escaped.append(f"{name}: {type(error).__name__}: {error}")
        path.unlink()
        if count == number // 4:
            early = held_bytes()
    most = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    json.dump({"counts": counts, "escaped": escaped, "bytes": [early, held_bytes(), most]}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
