"""Resolution, color and phash of photos, by the whole pipeline, over plain decoding by Pillow of the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import cpu_medians
from curation.cli.demo import prepare
from curation.config import parse_config
from curation.execution.plan import filters_of_new, plan_probes
from curation.execution.worker.worker import UnitWorker
from curation.ingest.listing import list_inputs
from curation.ledger import Ledger
from curation.pipeline.pipeline import build_pipeline
from curation.storage import open_storage

PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "china.jpg",
    "coffee.png",
    "flower.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
)
"""The demo's photos, which Python packages ship."""
TILE = (400, 300)
"""Width and height in pixels of the piece that is cut out of each."""
SIZES = {"0.5 megapixels": 2, "1.9 megapixels": 4}
"""How many tiles a picture has in each direction."""
NUM_IMAGES = 32
SMALL = 256
"""Short side in pixels of a JPEG that is decoded at a smaller size."""
QUALITY = 90
"""JPEG quality, as cameras write."""
FILTERS = ("resolution", "color", "phash")
PLAIN = "plain decoding by Pillow"
GOAL = f"with {', '.join(FILTERS)}"


def ratio() -> float:
    """CPU time, the larger ratio of two sizes; also prints what fewer and more filters take."""
    cv2.setNumThreads(1)
    prepare("demo", print)
    tiles = [_tile(Path("demo/input") / name) for name in PHOTOS]
    return max(_ratio(name, tiles, side) for name, side in SIZES.items())


def _ratio(name: str, tiles: Sequence[NDArray[np.uint8]], side: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        paths = [_write(Path(folder) / f"{number}.jpg", tiles, side, number) for number in range(NUM_IMAGES)]
        ways: dict[str, Callable[[], object]] = {
            PLAIN: partial(_decode, paths),
            "with resolution alone": partial(_run, folder, ["resolution"]),
            GOAL: partial(_run, folder, FILTERS),
            f"{GOAL}, thumbnail": partial(_run, folder, [*FILTERS, "thumbnail"]),
            f"{GOAL}, of JPEGs decoded to {SMALL}": partial(_run, folder, FILTERS, SMALL),
        }
        times_s = dict(zip(ways, cpu_medians(*ways.values()), strict=True))
    for way, seconds in times_s.items():
        each_ms, over = 1000 * seconds / NUM_IMAGES, seconds / times_s[PLAIN]
        print(f"      {name}, {way}: {each_ms:.2f} ms of CPU per image, {over:.2f}")
    return times_s[GOAL] / times_s[PLAIN]


def _tile(path: Path) -> NDArray[np.uint8]:
    """The middle of a photo; of a smaller one, the whole of it, repeated mirrored."""
    with Image.open(path) as image:
        photo = np.asarray(image.convert("RGB"))
    height, width = (max(wanted - there, 0) for wanted, there in zip(TILE[::-1], photo.shape, strict=False))
    photo = np.pad(photo, ((0, height), (0, width), (0, 0)), "symmetric")
    top, left = (photo.shape[0] - TILE[1]) // 2, (photo.shape[1] - TILE[0]) // 2
    return photo[top : top + TILE[1], left : left + TILE[0]]


def _write(path: Path, tiles: Sequence[NDArray[np.uint8]], side: int, number: int) -> Path:
    """A picture of photos beside and below each other, every number with others."""
    rows = [
        np.hstack(
            [
                tiles[(number + (number // 8 + 1) * (row * side + column)) % len(tiles)]
                for column in range(side)
            ]
        )
        for row in range(side)
    ]
    Image.fromarray(np.vstack(rows)).save(path, quality=QUALITY)
    return path


def _decode(paths: Sequence[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))


def _run(folder: str, filters: Sequence[str], short_side: int | None = None) -> None:
    """A whole run but for Ray, shards and report: listed, read, hashed, probed, decoded, measured, kept."""
    with tempfile.TemporaryDirectory() as output:
        config = parse_config(
            {
                "name": "photos",
                "input": [folder],
                "output": output,
                "image_decode_short_side": short_side,
                "images": {"filters": list(filters)}
                | ({"color": {"image_short_side": short_side}} if short_side else {}),
            }
        )
        pipeline, ledger = build_pipeline(config), Ledger(open_storage(output))
        worker = UnitWorker(pipeline)
        steps = {step.key for step in pipeline.steps()}
        for task in plan_probes(ledger, list_inputs(config), config, filters=filters_of_new(pipeline, steps)):
            worker.work(task)


if __name__ == "__main__":
    print(f"{ratio():.2f}")
