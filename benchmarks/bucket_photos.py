"""Filters small photos in a bucket and in a folder: CPU ratio, and what fetching ahead hides of a latency.

    python -m benchmarks.bucket_photos --photos 300 --latency-ms 50

Starts a SeaweedFS server of its own. Compared are the filter pass (hash, header, colorfulness) over the same
photos from a folder, from the bucket, and from the bucket through a proxy that answers later; the last one
with fetching ahead and without. CPU times of that one hold the proxy's, which runs in the same process.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bucket_sources import filter_task
from buckets import S3Server, upload
from curation.execution.worker import unit
from curation.execution.worker.worker import UnitWorker
from curation.ingest.listing import list_inputs
from datasets_media import Bench
from faulty_proxy import Delay, FaultyProxy


def write_photos(folder: Path, number: int) -> None:
    """JPEGs of 20 to 500 kB."""
    random = np.random.default_rng(1)
    folder.mkdir()
    for place in range(number):
        side = int(random.uniform(200, 1000))
        small = random.integers(0, 256, (side // 8, side // 8, 3)).astype(np.uint8)
        image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
        noise = random.normal(0, 12, (side, side, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{place:05d}.jpg", quality=88)


def filtered(source: str, output: Path) -> tuple[float, float]:
    """Seconds and CPU seconds of a filter pass in this process."""
    data = {"name": "photos", "input": [source], "output": str(output), "images": {"filters": ["color"]}}
    bench = Bench(data)
    sources = list(list_inputs(bench.config).sources)
    worker = UnitWorker(bench.pipeline)
    worker.work(filter_task(bench, sources[:4], 0))  # imports
    started, used = time.perf_counter(), time.process_time()
    for place in range(4, len(sources), 256):
        worker.work(filter_task(bench, sources[place : place + 256], 1 + place))
    return time.perf_counter() - started, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--latency-ms", type=float, default=50)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="curation-") as name, S3Server(Path(name) / "s3") as server:
        top = Path(name)
        write_photos(top / "in", options.photos)
        num_bytes = sum(path.stat().st_size for path in (top / "in").iterdir())
        print(f"{options.photos} photos, {num_bytes / options.photos / 1000:.0f} kB each")
        os.environ.update(server.environment)
        url = server.new_bucket()
        upload(server, top / "in", url)
        folder = filtered(str(top / "in"), top / "folder")
        print(f"folder: {folder[0]:.2f} s, CPU {folder[1]:.2f} s")
        with FaultyProxy(server.port) as proxy:
            proxy.add(Delay(options.latency_ms / 1000), method="GET")
            for label, endpoint, is_ahead in (
                ("bucket", server.environment, True),
                ("bucket, one by one", server.environment, False),
                (f"bucket, {options.latency_ms:.0f} ms later", proxy.environment, True),
                (f"bucket, {options.latency_ms:.0f} ms later, one by one", proxy.environment, False),
            ):
                os.environ.update(endpoint)
                alone = mock.patch.object(unit, "reading_ahead", return_value=nullcontext())
                with nullcontext() if is_ahead else alone:
                    seconds, cpu = filtered(url, top / label)
                wall, used = seconds / folder[0], cpu / folder[1]
                print(f"{label}: {seconds:.2f} s ({wall:.2f}), CPU {cpu:.2f} s ({used:.2f})")


if __name__ == "__main__":
    main()
