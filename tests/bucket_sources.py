"""Sources in a bucket, made by hand as a listing makes them, and a video that is worth reading in ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from curation.execution.plan import Task
from curation.ingest.locator import Locator
from curation.ingest.suffixes import kind_of
from curation.records import Source, stable_id
from curation.storage import open_storage
from datasets_media import Bench


def source_of(url: str, key: str, data: bytes | None = None) -> Source:
    """The object below `url` as a source; `data` is put there first."""
    storage = open_storage(url)
    if data is not None:
        storage.write(key, data)
    found = storage.find(key)
    kind = kind_of(key)
    assert found is not None
    uri = f"{url}/{key}"
    return Source(
        source_id=stable_id(uri),
        uri=uri,
        kind=kind or "container",
        size_bytes=found.size_bytes,
        etag=found.etag,
    )


def part_of(container: Source, scheme: str, part: str, position: int, size_bytes: int = 0) -> Source:
    """A part of a container, as its reader lists it."""
    uri = Locator(scheme, container.uri, part).uri
    return replace(
        container,
        source_id=stable_id(uri),
        uri=uri,
        kind=kind_of(part) or "image",
        size_bytes=size_bytes,
        etag=f"{container.etag}@{position}",
    )


def uploaded(url: str, files: Mapping[str, bytes]) -> list[Source]:
    """Files as sources, put below `url` in their order."""
    return [source_of(url, key, data) for key, data in files.items()]


def filter_task(bench: Bench, sources: list[Source], unit: int = 0) -> Task:
    """What filters these sources as a new unit, all of one kind, as `plan_probes` plans it."""
    steps = frozenset(
        step.key for step in bench.pipeline.steps() if step.key.startswith(f"{sources[0].kind}s.")
    )
    return Task("filter", unit, tuple(sources), steps=steps, needs=steps, num_sources=len(sources))


def noise(form: str, seconds: int, folder: Path) -> bytes:
    """A video of noise, 8 MB a minute, in a container of this form."""
    random, path = np.random.default_rng(5), folder / f"noise.{form}"
    with av.open(str(path), "w") as container:
        options = {"crf": "10", "g": "10", "preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(10 * seconds):
            pixels = random.integers(0, 256, (96, 128, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert path.stat().st_size > 100_000 * seconds
    return path.read_bytes()
