"""Opens still images: header first, then upright RGB. The only module that decodes with Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from curation.errors import DecodeError, ProbeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MAX_PIXELS = 178_956_970
"""Images above this are refused from the header: decoded they would take more than half a gigabyte."""

_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = {5, 6, 7, 8}
_ROTATION = {3: 180, 6: 90, 8: 270}


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    from PIL import Image

    with warnings.catch_warnings():
        # Broken metadata warns and is ignored; oversized images are refused below.
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            yield image


def probe_image(path: Path) -> tuple[int, int, str, int]:
    """Upright width, upright height, format name and clockwise rotation in degrees, from the header.

    Raises:
        ProbeError: not an image, or more than `MAX_PIXELS`.
    """
    from PIL import Image

    try:
        if path.stat().st_size == 0:
            raise ProbeError("the file is empty")
        with _opened(path) as image:
            width, height = image.size
            _check_size(width, height)
            # Of a PNG this decodes the pixels: its EXIF may stand behind them.
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            codec = (image.format or "unknown").lower()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ProbeError(_without_path(error, path)) from error
    if orientation in _QUARTER_TURNS:
        width, height = height, width
    return width, height, codec, _ROTATION.get(orientation, 0)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ProbeError(f"the header says {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ProbeError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS}")


def read_image(path: Path) -> NDArray[np.uint8]:
    """The first frame as [H, W, 3] uint8 sRGB, upright; transparency is composited on white.

    Raises:
        DecodeError: the pixels are damaged or cut off.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with _opened(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_to_rgb(upright))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DecodeError(_without_path(error, path)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        # Pillow clips 16-bit gray to 8 bits instead of scaling it.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _without_path(error: Exception, path: Path) -> str:
    """The message alone: the row names the file already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).replace(repr(str(path)), "").strip() or type(error).__name__
