"""Pictures with drawn words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LINES = ("Curated data", "makes models", "learn faster", "every day")


def page(*lines: str, size: int = 28, height: int = 256, width: int = 384) -> NDArray[np.uint8]:
    """Black words on white, one line below the other: [height, width, 3] uint8 RGB."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((16, 12 + number * (size + 18)), line, "black", ImageFont.load_default(size))
    return np.asarray(image)


PAGES = {
    "blank": page(),
    "one line": page("Hello world"),
    "four lines": page(*LINES),
    "small print": page(*LINES * 3, size=12),
    "large": page(*LINES * 4, size=72, height=1500, width=1100),
    "wide": page("a long line of words in a banner", size=20, height=50, width=1600),
    "low": page("abc", size=9, height=24, width=900),
    "odd": page(*LINES[:2], size=25, height=131, width=257),
}
"""By name: pages whose sides are enlarged, shrunk or rounded on their way to a detector."""

PADDLE_COVERAGE = {
    "blank": 0.0,
    "one line": 0.03662,
    "four lines": 0.16967,
    "small print": 0.09363,
    "large": 0.22383,
    "wide": 0.0759,
    "low": 0.0088,
    "odd": 0.21041,
}
"""Area under the union of the boxes that paddleocr 3.7.0 finds on `PAGES`.

TextDetection with its own defaults, paddlepaddle 3.3.1, weights of PP-OCRv4_mobile_det in Paddle's format.
"""


def outline(kind: str) -> NDArray[np.uint8]:
    """A thick ring or frame: PP-OCR's detector takes it for text, and a reader sees one letter at most."""
    image = Image.new("RGB", (384, 256), (150, 150, 255))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if kind == "ring" else draw.rectangle)((92, 38, 292, 218), outline=(0, 0, 60), width=16)
    return np.asarray(image)
