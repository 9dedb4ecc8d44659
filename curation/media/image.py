"""Opens still images: header first, then upright sRGB. The only module that decodes with Pillow.

What becomes of the many ways to store a picture:

- the first frame of an animation, the first page of a TIFF, the largest picture of an icon;
- turned upright by EXIF or XMP orientation; broken EXIF is ignored;
- an ICC profile is applied (perceptual intent), unless it says that it is sRGB, is broken, or is for
  another kind of pixels than those that are there: then the pixels count as sRGB;
- CMYK without a profile by Pillow's formula; CMYK JPEGs are taken as inverted, as Adobe writes them;
- 16 bits become the upper 8; integers beyond 16 bits and floats have no known white, and are refused;
- palettes give their colors; transparency is composited on white.
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from curation.errors import DecodeError, ProbeError, SampleError, UnsupportedMediaError
from curation.media.file import MediaFile, reading, rewound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MAX_PIXELS = 178_956_970
"""Images above this are refused by default: decoded they would take more than half a gigabyte."""

_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = {5, 6, 7, 8}
_ROTATION = {3: 180, 6: 90, 8: 270}
_SIZED_UPRIGHT = {"tiff"}
"""Formats that Pillow turns itself on loading, and whose size it gives as upright before."""
_SCALED = {"JPEG", "MPO"}
"""Formats that can be decoded at a smaller size."""
_TRANSPOSE = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Orientation -> what turns the stored picture upright (EXIF 2.32, tag 274)."""
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TGA"),
    *("TIFF", "WEBP"),
)
"""What is opened. Pillow goes by content, whatever a file is called: an EPS would start Ghostscript."""
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow's readers raise on damaged files: they check little, and fail wherever nonsense leads."""


@contextmanager
def _opened(file: MediaFile, max_pixels: int, damaged: type[SampleError]) -> Iterator[Image.Image]:
    """The image; what it makes Pillow raise while it is open becomes `damaged`."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    try:
        # Pillow looks at the limit wherever a format names a size, also behind the header.
        Image.MAX_IMAGE_PIXELS = max_pixels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(rewound(file), formats=_formats()) as image:
                width, height = image.size
                if width < 1 or height < 1:
                    raise damaged(f"the header says {width}x{height} pixels")
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise damaged(f"it has more pixels than max_pixels: {max_pixels}") from error
    except _DAMAGED as error:
        raise damaged(_hint(file) or _without_path(error, file)) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that Pillow knows here, in its own order."""
    from PIL import Image

    _add_plugins()
    Image.init()
    return tuple(name for name in Image.ID if name in _FORMATS)


def _add_plugins() -> None:
    """HEIC, where pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError:  # not any ImportError: one that is here and broken is this machine's fault
        return
    register_heif_opener()


def probe_image(file: MediaFile, max_pixels: int = MAX_PIXELS) -> tuple[int, int, str, int]:
    """Upright width, upright height, format name and clockwise rotation in degrees, from the header.

    Raises:
        ProbeError: not an image, or more than `max_pixels`.
    """
    with _opened(file, max_pixels, ProbeError) as image:
        width, height = image.size
        if image.format == "PNG" and not _may_have_exif(image, file):
            image.info["exif"] = b""  # Pillow would decode the pixels to see whether any follows them
        orientation = _orientation(image)
        codec = (image.format or "unknown").lower()
    if orientation in _QUARTER_TURNS and codec not in _SIZED_UPRIGHT:
        width, height = height, width
    return width, height, codec, _ROTATION.get(orientation, 0)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where there is none that can be read."""
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return found if isinstance(found, int) and found in _TRANSPOSE else 1


def _may_have_exif(image: Image.Image, file: MediaFile) -> bool:
    """Whether there is EXIF before a PNG's pixels, or behind them chunks that may hold EXIF or XMP."""
    if "exif" in image.info or "Raw profile type exif" in image.info:
        return True
    with reading(file) as chunks:
        chunks.seek(8)
        in_pixels = False
        for name in _png_chunks(chunks):
            if in_pixels and name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            in_pixels = in_pixels or name == b"IDAT"
    return False


def _png_chunks(file: IO[bytes]) -> Iterator[bytes]:
    while len(head := file.read(8)) == 8:
        size_bytes, name = struct.unpack(">I4s", head)
        yield name
        file.seek(size_bytes + 4, io.SEEK_CUR)


def read_image(
    file: MediaFile, max_pixels: int = MAX_PIXELS, short_side: int | None = None
) -> NDArray[np.uint8]:
    """The first frame as [H, W, 3] uint8 sRGB, upright; transparency is composited on white.

    With `short_side`, JPEGs come at 1/2, 1/4 or 1/8 of their size, as small as leaves so many pixels at
    least: their decoder computes no more than these (libjpeg's scaled inverse DCT). Others come as they are.

    Raises:
        DecodeError: the pixels are damaged, cut off, or more than `max_pixels`.
        UnsupportedMediaError: nobody knows which number is white.
    """
    from PIL import Image

    with _opened(file, max_pixels, DecodeError) as image:
        if short_side is not None and image.format in _SCALED:
            image.draft(None, (short_side, short_side))
        promised = image.size
        image.load()
        if image.size != promised:
            raise DecodeError(f"the header says {promised}, the pixels are {image.size}")
        turn = _TRANSPOSE.get(_orientation(image))
        upright = image.transpose(Image.Transpose[turn]) if turn else image
        return _as_array(_to_srgb(upright))


def _as_array(image: Image.Image) -> NDArray[np.uint8]:
    """[H, W, 3] of an image in RGB.

    Pillow pads pixels to four bytes. Dropping the fourth from its own memory takes a third of the time of
    `numpy.asarray`, which has Pillow write the pixels out first.
    """
    import cv2
    import numpy as np
    import pyarrow as pa

    try:
        padded = pa.array(image)
    except ValueError:  # a large image is not in one piece
        return np.asarray(image)
    width, height = image.size
    flat = padded.flatten().to_numpy(zero_copy_only=True)
    pixels: NDArray[np.uint8] = cv2.cvtColor(flat.reshape(height, width, 4), cv2.COLOR_RGBA2RGB)
    return pixels


def _to_srgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        raise UnsupportedMediaError("of pixels that are floats, white is not known")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _upper_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        rgba = _color_managed(_without_alpha(image))
        rgba.putalpha(alpha)
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return _color_managed(image)


def _upper_bits(image: Image.Image) -> Image.Image:
    """16-bit gray as 8-bit gray; Pillow would clip it instead of scaling it."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image.convert("I"))
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnsupportedMediaError("of pixels of more than 16 bits, white is not known")
    gray = Image.fromarray((values >> 8).astype(np.uint8))
    gray.info = {key: image.info[key] for key in ("icc_profile",) if key in image.info}
    if "transparency" in image.info:
        gray.putalpha(Image.fromarray((values != image.info["transparency"]).astype(np.uint8) * 255))
    return gray


def _without_alpha(image: Image.Image) -> Image.Image:
    """The colors alone, in a mode that a profile can be for."""
    is_gray = image.mode in ("LA", "La", "L", "1")
    bare = image.convert("RGBA").convert("RGB").convert("L" if is_gray else "RGB")
    bare.info = {key: image.info[key] for key in ("icc_profile",) if key in image.info}
    return bare


def _color_managed(image: Image.Image) -> Image.Image:
    """RGB, through the image's profile where it has one that applies."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode == "LAB":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    transform = _transform(profile, image.mode) if isinstance(profile, bytes) and profile else None
    managed = ImageCms.applyTransform(image, transform) if transform is not None else None
    if managed is not None:
        return managed
    return image if image.mode == "RGB" else image.convert("RGB")


_PIXELS_OF_PROFILE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
"""ICC's name of a color space -> mode of the images that have such pixels."""


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """What makes sRGB of pixels under this profile; None where it changes nothing or can't be used."""
    from PIL import ImageCms

    try:
        parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PIXELS_OF_PROFILE.get(parsed.profile.xcolor_space.strip()) != mode:
            return None
        if "sRGB" in (parsed.profile.profile_description or ""):
            return None
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(parsed, srgb, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except (ImageCms.PyCMSError, *_DAMAGED):
        return None


def _hint(file: MediaFile) -> str | None:
    """What is wrong with a file that Pillow doesn't know, where that can be told."""
    try:
        with reading(file) as first:
            start = first.read(12)
    except OSError:
        return None
    if not start:
        return "the file is empty"
    if start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"mif1", b"msf1") and not _has_heif():
        return "HEIC needs the package pillow-heif: pip install 'curation[heic]'"
    return None


def _has_heif() -> bool:
    from PIL import Image

    return "HEIF" in Image.OPEN


def _without_path(error: Exception, file: MediaFile) -> str:
    """The message alone: the row names the file already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).replace(repr(str(file)), "").strip() or type(error).__name__
