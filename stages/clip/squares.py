"""The squares that CLIP sees of pictures: the part of its preprocessing that is slow, and needs no model.

    pixels = squares(frames, square_px("ViT-L-14-quickgelu"))    # [T, 224, 224, 3] uint8 RGB

They are those of open_clip's own transform for inference, to the last bit: the short side brought to the
square's by Pillow's bicubic filter, and the middle cut out. What is left to do, `tower` does on the GPU.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STAND_IN_PX = 224
"""Side in pixels of what a stand-in looks at."""


def known_architecture(name: str) -> str:
    """The name, for validators of settings.

    Raises:
        ValueError: open_clip has no architecture of that name.
    """
    if not _description(name).is_file():
        known = sorted(path.stem for path in _folder().glob("*.json"))
        near = ", ".join(difflib.get_close_matches(name, known, n=3)) or f"the files in {_folder()}"
        raise ValueError(f"open_clip has no architecture {name!r}; it has {near}")
    return name


@functools.cache
def square_px(architecture: str) -> int:
    """Side in pixels of what an architecture looks at, from the file that open_clip builds it by."""
    side: int = json.loads(_description(architecture).read_text())["vision_cfg"]["image_size"]
    return side


def squares(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """[T, side, side, 3] of [T, H, W, 3], both uint8 RGB."""
    return np.stack([_square(frame, side) for frame in frames])


def _square(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = frame.shape[:2]
    short = min(height, width)
    size = int(side * width / short), int(side * height / short)
    left, top = (round((pixels - side) / 2) for pixels in size)
    resized = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def _description(architecture: str) -> Path:
    return _folder() / f"{architecture.replace('/', '-')}.json"


@functools.cache
def _folder() -> Path:
    """Where open_clip keeps a file per architecture."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("open_clip is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "model_configs"
