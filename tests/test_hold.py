"""Decoded images are bounded by their bytes, and what is measured does not depend on the bound."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.execution.worker.image_pass import CHUNK_IMAGES, chunks_of
from curation.ingest import media_readers as readers
from curation.records import Source
from datasets_media import Bench, write_photo

SIZES = [
    (400, 300),
    (300, 400),
    (500, 500),
    (100, 100),
    (120, 90),
    (640, 480),
    (200, 200),
    (64, 64),
    (900, 700),
]
"""Width and height; three bytes a pixel once decoded."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        write_photo(folder / f"{number}.jpg", number, size=size)
    return folder


def data_of(folder: Path, output: Path, max_held_bytes: int) -> dict[str, Any]:
    return {
        "name": "hold",
        "input": [str(folder)],
        "output": str(output),
        "images": {
            "filters": ["color", "phash", "thumbnail"],
            "color": {"min_colorfulness": None, "min_untinted_colorfulness": None},
        },
        "run": {"max_held_bytes": max_held_bytes, "max_failed_fraction": 1.0},
    }


def image(number: int, width: int, height: int) -> Source:
    return Source(
        source_id=str(number), uri="", kind="image", size_bytes=1, etag="", width=width, height=height
    )


def test_chunks_hold_as_many_bytes_as_they_may_and_at_least_one_image() -> None:
    images = [image(number, *size) for number, size in enumerate(SIZES)]
    chunks = list(chunks_of(images, 1_000_000))
    assert [source for chunk in chunks for source in chunk] == images
    sizes = [[3 * (source.width or 0) * (source.height or 0) for source in chunk] for chunk in chunks]
    # By hand: 360,000 + 360,000, + 750,000 would be too many; 750,000 + 30,000 + 32,400, + 921,600 would.
    assert [len(chunk) for chunk in chunks] == [2, 3, 1, 2, 1]
    assert [sum(chunk) for chunk in sizes] == [720_000, 812_400, 921_600, 132_288, 1_890_000]


def test_small_images_are_chunked_by_their_number() -> None:
    chunks = list(chunks_of([image(number, 10, 10) for number in range(40)], 10**9))
    assert [len(chunk) for chunk in chunks] == [CHUNK_IMAGES, CHUNK_IMAGES, 40 - 2 * CHUNK_IMAGES]


@pytest.mark.parametrize("max_held_bytes", [1, 1_000_000, 2**29])
def test_no_more_pixels_are_alive_than_may_be_held(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_held_bytes: int
) -> None:
    alive, most = 0, 0
    read_image = readers.read_image

    def counting(path: Path, *settings: Any) -> NDArray[np.uint8]:
        nonlocal alive, most
        pixels = read_image(path, *settings)
        alive += pixels.nbytes
        most = max(most, alive)
        weakref.finalize(pixels, forget, pixels.nbytes)
        return pixels

    def forget(num_bytes: int) -> None:
        nonlocal alive
        alive -= num_bytes

    monkeypatch.setattr(readers, "read_image", counting)
    Bench(data_of(folder, tmp_path / "out", max_held_bytes)).run()
    largest, total = 3 * 900 * 700, sum(3 * width * height for width, height in SIZES)
    assert most <= max(max_held_bytes, largest)
    assert alive == 0
    assert (most == total) == (max_held_bytes == 2**29)


def test_rows_do_not_depend_on_how_much_is_held(folder: Path, tmp_path: Path) -> None:
    benches = [Bench(data_of(folder, tmp_path / f"out{most}", most)) for most in (1, 1_000_000, 2**29)]
    for bench in benches:
        bench.run()
    keys = [step.key for step in benches[0].pipeline.steps()]
    rows = [{key: bench.rows(key) for key in keys} for bench in benches]
    assert all(len(found) == len(SIZES) for found in rows[0].values())
    assert rows[0] == rows[1] == rows[2]
