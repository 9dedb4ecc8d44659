"""Listing 100,000 files, rows of Parquet and keys of a bucket: CPU seconds per million, summed (goal 60).

python -m benchmarks.listing 1000000 does it for a million; goals: 30 s for files, 10 s for rows, 20 for keys.
The bucket is a server on loopback that makes its listing up, in a process of its own, which is not
counted; what obstore alone takes for the same listing is printed beside.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.key_server import environment_of, serve_made_up_keys
from benchmarks.measure import high_water_bytes
from curation.config import Config, parse_config
from curation.execution.plan import plan_probes
from curation.ingest.containers.index import ListingIndex
from curation.ingest.inputs import find_inputs, unlisted_containers
from curation.ingest.listing import Listing, list_inputs
from curation.ledger import Ledger, unit_name
from curation.ledger.absent import absent_sources
from curation.ledger.present import remember_listing
from curation.ledger.schemas import SOURCES
from curation.storage import open_storage
from curation.storage.buckets.connection import connect, place_of
from curation.storage.parquet import to_bytes

KINDS = ("files", "rows", "keys")
NUMBER = 100_000
FOLDER_FILES = 1000
UNIT_IMAGES = 256


def ratio() -> float:
    """CPU seconds per million files, rows of a Parquet file that is known, and keys, one plus the others."""
    return sum(_in_a_process(kind, NUMBER) for kind in KINDS)


def _in_a_process(kind: str, number: int) -> float:
    """Memory is counted for a process."""
    command = [sys.executable, "-m", "benchmarks.listing", kind, str(number)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    *lines, cost = done.stdout.splitlines()
    print("\n".join(lines))
    return float(cost)


def files_cost_s(folder: Path, number: int) -> float:
    """CPU seconds per million of finding and listing files."""
    for start in range(0, number, FOLDER_FILES):
        place = folder / f"in/{start // FOLDER_FILES:05d}"
        place.mkdir(parents=True)
        for name in range(start, min(start + FOLDER_FILES, number)):
            os.close(os.open(place / f"picture{name:08d}.jpg", os.O_CREAT | os.O_WRONLY, 0o644))
    return _list_and_plan(_config(folder), number)


def rows_cost_s(folder: Path, number: int) -> float:
    """CPU seconds per million of listing rows that are in the index; those of the first look are printed."""
    (folder / "in").mkdir()
    _write_rows(folder / "in/a.parquet", number)
    config = _config(folder)
    (container,) = unlisted_containers(config, find_inputs(config))
    with _timed("first look, by a worker", number):
        ListingIndex(open_storage(config.general.output)).list_now(container)
    return _list_and_plan(config, number)


def keys_cost_s(folder: Path, number: int) -> float:
    """CPU seconds per million of finding and listing the objects of a bucket."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    server = spawn.Process(target=serve_made_up_keys, args=(number, there), daemon=True)
    server.start()
    try:
        os.environ.update(environment_of(here.recv()))
        with _timed("obstore alone", number) as least:
            pages = connect(place_of("s3://keys")).list(return_arrow=True, chunk_size=1000)
            num_found = sum(pa.record_batch(page).num_rows for page in pages)
        cost = _list_and_plan(_config(folder, "s3://keys/in"), number)
    finally:
        server.kill()
        server.join()
    if num_found != number:
        raise RuntimeError(f"{num_found} keys of {number}")
    print(f"        of that obstore alone: {least[0]:.1f} CPU s per million, 1 to {cost / least[0]:.1f}")
    return cost


def _list_and_plan(config: Config, number: int) -> float:
    with _timed("list", number) as cost:
        listing = list_inputs(config)
    ledger = Ledger(open_storage(config.general.output))
    with _timed("plan all", number):
        remember_listing(ledger.storage, listing.sources)
        num_tasks = len(plan_probes(ledger, listing, config))
    if num_tasks != -(-number // UNIT_IMAGES):
        raise RuntimeError(f"{num_tasks} units for {number} sources")
    _fill(ledger, listing)
    with _timed("plan nothing", number):
        tasks = plan_probes(ledger, listing, config)
    with _timed("who is gone", number):
        gone = absent_sources(ledger).gone
    if tasks or gone:
        raise RuntimeError(f"{len(tasks)} units to read, {len(gone)} sources gone")
    return cost[0]


@contextmanager
def _timed(what: str, number: int) -> Iterator[list[float]]:
    """Print what it took, and the peak so far; CPU seconds per million when it is over."""
    cpu, wall, found = time.process_time(), time.perf_counter(), [0.0]
    yield found
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    found[0] = cpu / number * 1e6
    peak_mb = high_water_bytes() / 1e6
    print(
        f"        {what}: {cpu:.2f} CPU s, {wall:.2f} s, {found[0]:.1f} CPU s per million, {peak_mb:.0f} MB"
    )


def _config(folder: Path, root: str | None = None) -> Config:
    settings = {
        "name": "listing",
        "input": [root or f"{folder}/in"],
        "output": f"{folder}/out",
        "images": {"filters": ["resolution"]},
        "run": {"unit_images": UNIT_IMAGES},
    }
    return parse_config(settings)


def _write_rows(path: Path, number: int) -> None:
    """Pictures of a few pixels as Hugging Face writes them, with a caption and a score."""
    with BytesIO() as file:
        Image.new("RGB", (8, 8)).save(file, "JPEG")
        picture = file.getvalue()
    fields = [("bytes", pa.binary()), ("path", pa.string())]
    schema = pa.schema([("image", pa.struct(fields)), ("caption", pa.string()), ("score", pa.float64())])
    random = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, number, FOLDER_FILES):
            names = range(start, min(start + FOLDER_FILES, number))
            columns = {
                "image": [{"bytes": picture, "path": f"{name}.jpg"} for name in names],
                "caption": [f"a caption of picture {name}" for name in names],
                "score": random.random(len(names)),
            }
            writer.write_table(pa.table(columns, schema=schema))


def _fill(ledger: Ledger, listing: Listing) -> None:
    """A ledger that knows all of the listing."""
    table = listing.sources.table
    for unit, start in enumerate(range(0, len(listing.sources), UNIT_IMAGES)):
        part = table.slice(start, UNIT_IMAGES)
        known = {name: part[name] for name in ("uri", "kind", "size_bytes", "etag", "carried")}
        known["source_id"] = pa.array([f"{name:020x}" for name in range(start, start + part.num_rows)])
        known["status"] = pa.array(["ok"] * part.num_rows)
        columns = {field.name: known.get(field.name, pa.nulls(part.num_rows)) for field in SOURCES}
        path = Path(ledger.storage.root) / "sources" / unit_name(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_bytes(pa.table(columns, schema=SOURCES)))


def main(arguments: list[str]) -> None:
    """A kind and a number: that one, in this process. A number: all of them."""
    *kinds, number = arguments
    if not kinds:
        print(sum(_in_a_process(kind, int(number)) for kind in KINDS))
        return
    with tempfile.TemporaryDirectory() as folder:
        cost = {"files": files_cost_s, "rows": rows_cost_s, "keys": keys_cost_s}[kinds[0]]
        print(cost(Path(folder), int(number)))


if __name__ == "__main__":
    main(sys.argv[1:])
