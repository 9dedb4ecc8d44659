"""Writing shards: CPU time over that of pyarrow writing the same tables (goal: at most 2)."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.documents import VOCABULARIES
from benchmarks.ledger_scale import UNIT_IMAGES, write_unit
from benchmarks.measure import cpu_medians, high_water_bytes
from curation.config import parse_config
from curation.execution.cluster.tasks import in_process
from curation.ledger import Ledger, unit_name
from curation.ledger.schemas import SOURCES, stage_schema
from curation.ledger.selection import Selection
from curation.pipeline import Pipeline, build_pipeline
from curation.records import stable_id
from curation.storage import open_storage
from curation.tokenize_shards.shards.rows import REPEATED
from curation.tokenize_shards.shards.writer import ShardConfig, ShardWriter

NUMBER = 10_000
NUM_WORDS = 85
CAPTION = (
    "A woman in a red coat walks along a wet street at night while neon signs reflect in the puddles and the "
    "camera follows slowly from behind, its shallow depth of field blurring distant headlights into soft "
    "circles of amber and turquoise; two cyclists cross the intersection, and rain begins to fall again."
)
SIDE = 64
"""Rows and columns of the token grid of a picture of 512 x 512 pixels."""


class FirstShard(Exception):
    """The first shard is about to be written."""


def ratio() -> float:
    """CPU time of the tasks that write, over that of pyarrow; what is counted before is not in it."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, pipeline, writer = prepared(folder, NUMBER, SIDE)
        selection = Selection(ledger, pipeline)
        out = open_storage(f"{folder}/shards")
        tasks: list[tuple[Callable[[Any], Any], Sequence[Any]]] = []

        def noted(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
            tasks.append((function, arguments))
            return in_process(function, arguments)

        writer.write(out, "", selection, noted)
        ((write_task, arguments),) = tasks
        shards = sorted(Path(f"{folder}/shards").glob("*.parquet"))
        files = [
            [file.read_row_group(number) for number in range(file.num_row_groups)]
            for file in map(pq.ParquetFile, shards)
        ]
        written = sum(path.stat().st_size for path in shards)

        def ours() -> None:
            for task in arguments:
                write_task(task)

        def arrow() -> None:
            for number, groups in enumerate(files):
                with pq.ParquetWriter(
                    f"{folder}/{number}.parquet",
                    groups[0].schema,
                    compression="zstd",
                    use_dictionary=list(REPEATED),
                    write_statistics=False,
                ) as file:
                    for table in groups:
                        file.write_table(table)

        ours_s, arrow_s = cpu_medians(ours, arrow)
        speeds = [written / seconds / 1e6 for seconds in (ours_s, arrow_s)]
        print(f"      {written / 1e6:.0f} MB: {speeds[0]:.0f} MB/s, pyarrow {speeds[1]:.0f} MB/s")
        return ours_s / arrow_s


def before_first_shard(number: int) -> float:
    """CPU seconds from a moved threshold to the first shard, of `number` images, and the memory it took."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, pipeline, writer = prepared(folder, number, 2)
        started = time.process_time()

        def stop(function: Any, arguments: Any) -> Iterator[Any]:
            raise FirstShard

        with suppress(FirstShard):
            writer.write(open_storage(f"{folder}/shards"), "", Selection(ledger, pipeline), stop)
        cost = time.process_time() - started
        print(f"      {number} images: {cost / number * 1e6:.1f} CPU s per million to the first shard")
        print(f"      peak {high_water_bytes() / 1e6:.0f} MB")
        return cost


def prepared(folder: str, number: int, side: int) -> tuple[Ledger, Pipeline, ShardWriter]:
    """A compacted ledger of images that have captions and tokens, of which a threshold keeps about half."""
    vocabulary = next((path for path in VOCABULARIES if path.is_file()), None)
    if vocabulary is None:
        raise SystemExit("there is no vocabulary; `make demo` fetches it")
    pipeline = _pipeline(folder, vocabulary)
    ledger = Ledger(open_storage(f"{folder}/out"))
    _fill(ledger, pipeline, number, side)
    ledger.compact((step.name, step.fingerprint) for step in pipeline.steps())
    return ledger, pipeline, ShardWriter(ShardConfig(vocabulary=str(vocabulary)))


def _pipeline(folder: str, vocabulary: Path) -> Pipeline:
    aesthetic = {"weights": "stand-in", "head": "stand-in", "head_sha256": None, "min_score": 6.0}
    config = {
        "name": "scale",
        "input": [folder],
        "output": f"{folder}/out",
        "stand_ins": "allow",
        "images": {"filters": ["resolution", {"any_of": ["aesthetic", "color"]}], "aesthetic": aesthetic},
        "captions": {"engine": "stand-in"},
        "tokens": {"weights": "stand-in"},
        "shards": {"vocabulary": str(vocabulary)},
    }
    return build_pipeline(parse_config(config))


def _fill(ledger: Ledger, pipeline: Pipeline, number: int, side: int) -> None:
    """Sources, random scores, captions of about a hundred ids and random codes, unit by unit."""
    random = np.random.default_rng(0)
    words = np.array(CAPTION.split())
    for unit, start in enumerate(range(0, number, UNIT_IMAGES)):
        names = range(start, min(start + UNIT_IMAGES, number))
        rows = len(names)
        source_ids = [stable_id(name) for name in names]
        known = {
            "source_id": pa.array(source_ids),
            "uri": pa.array([f"images/{name:09d}.jpg" for name in names]),
            "kind": _repeated("image", rows),
            "size_bytes": pa.array(random.integers(1e4, 1e6, rows)),
            "etag": pa.array([f"{name:x}" for name in names]),
            "status": _repeated("ok", rows),
        }
        write_unit(ledger, f"sources/{unit_name(unit)}", SOURCES, known, rows)
        codes = random.integers(0, 32_768, (rows, side * side)).astype("<u2")
        measured = {
            "sample_id": pa.array(sorted(stable_id(source_id, 0, 0) for source_id in source_ids)),
            "status": _repeated("ok", rows),
            "seconds": pa.array(random.random(rows)),
            "width": pa.array(np.full(rows, 1024)),
            "height": pa.array(np.full(rows, 1024)),
            "aesthetic_score": pa.array(random.integers(0, 1200, rows) / 100),
            "colorfulness": pa.array(np.zeros(rows)),
            "caption": pa.array([" ".join(row) for row in random.choice(words, (rows, NUM_WORDS))]),
            "model": _repeated("stand-in", rows),
            "grid_t": pa.array(np.ones(rows)),
            "grid_h": pa.array(np.full(rows, side)),
            "grid_w": pa.array(np.full(rows, side)),
            "codes": pa.array([row.tobytes() for row in codes]),
        }
        for step in pipeline.steps():
            key = f"ledger/{step.name}/{step.fingerprint}/{unit_name(unit)}"
            write_unit(ledger, key, stage_schema(step.stage.columns), measured, rows)


def _repeated(text: str, number: int) -> pa.Array:
    return pa.repeat(pa.scalar(text), number)


if __name__ == "__main__":
    before_first_shard(int(sys.argv[1]))
