"""Resolution and color of images, probed and decoded, over plain decoding by Pillow of the same files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.measure import cpu_medians
from curation.ingest.media_readers import ImageReader
from curation.media.probe import probe
from curation.pipeline.models import resolve_revision
from curation.records import Sample, Source
from curation.stage import Setup, Stage, View
from stages.color import ColorConfig, ColorStage
from stages.resolution import ResolutionConfig, ResolutionStage
from stages.text import TextConfig, TextStage
from stages.thumbnail import ThumbnailConfig, ThumbnailStage

NUM_IMAGES = 12
SIZE = (1600, 1200)
"""Pixels, as photos on the web have them."""
FILTERS = "with resolution and color"


def ratio() -> float:
    """CPU time with resolution and color; also prints images/s, and what thumbnail and text add."""
    cv2.setNumThreads(1)
    light: list[Stage] = [ResolutionStage(ResolutionConfig()), ColorStage(ColorConfig())]
    thumbnail = ThumbnailStage(ThumbnailConfig())
    with tempfile.TemporaryDirectory() as folder:
        paths = [_write(Path(folder) / f"{seed}.jpg", seed) for seed in range(NUM_IMAGES)]
        ways: dict[str, Callable[[], object]] = {
            "plain decoding by Pillow": partial(_decode, paths),
            "header, hash and decoding": partial(_measure, paths, []),
            FILTERS: partial(_measure, paths, light),
            f"{FILTERS}, and a thumbnail": partial(_measure, paths, [*light, thumbnail]),
        }
        for max_side in (960, 480):
            text = TextStage(TextConfig(max_side=max_side))
            text.setup(Setup("cpu", {ref.role: resolve_revision(ref) for ref in text.models()}))
            ways[f"{FILTERS}, and text at {max_side}"] = partial(_measure, paths, [*light, text])
        times_s = dict(zip(ways, cpu_medians(*ways.values()), strict=True))
    plain_s = times_s["plain decoding by Pillow"]
    for name, seconds in times_s.items():
        print(f"      {name}: {NUM_IMAGES / seconds:.1f} images per CPU second, {seconds / plain_s:.2f}")
    return times_s[FILTERS] / plain_s


def _write(path: Path, seed: int) -> Path:
    """A smooth picture with some grain, at about the bytes per pixel of a photo."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (30, 40, 3), np.uint8)
    smooth = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    grain = random.integers(-6, 7, smooth.shape, np.int16)
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=88)
    return path


def _decode(paths: Sequence[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))


def _measure(paths: Sequence[Path], stages: Sequence[Stage]) -> None:
    """As a unit does it, without Ray and ledger: probed, then decoded once for all stages."""
    for path in paths:
        source = probe(Source(source_id=path.name, uri=str(path), kind="image", size_bytes=1, etag="e"), path)
        sample = Sample.of_image(source)
        reader = ImageReader({sample.sample_id: source}, lambda uri: None, 10**9)
        for stage in stages:
            stage.measure([sample], [reader.media(sample, stage.view("image"))])
        if not stages:
            reader.media(sample, View())


if __name__ == "__main__":
    print(f"{ratio():.2f}")
