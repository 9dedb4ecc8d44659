"""Packs of ready training data per CPU second, over rows per CPU second of plain pyarrow reading."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.measure import cpu_medians
from curation.storage import open_storage
from curation.tokenize_shards.shards.manifest import Manifest, digest_ids, write_manifest
from curation.tokenize_shards.shards.rows import REPEATED, SCHEMA
from curation.tokenize_shards.shards.shardfile import ShardFile
from curation.tokenize_shards.shards.stream import ShardStream

NUM_SAMPLES, SIDE, CONTEXT = 4_000, 64, 5_120


def ratio() -> float:
    """Share of plain reading's tokens per CPU second that the stream reaches; the same files."""
    with tempfile.TemporaryDirectory() as folder:
        num_tokens = _write(folder)

        def plain() -> None:
            """Everything that documents are made of, as Arrow has it; no document is built."""
            for path in sorted(Path(folder).glob("*.parquet")):
                file = pq.ParquetFile(path)
                for group in range(file.num_row_groups):
                    file.read_row_group(group, use_threads=False)

        def rows() -> None:
            """The same, as Python values."""
            for path in sorted(Path(folder).glob("*.parquet")):
                pq.read_table(path, use_threads=False).to_pylist()

        def ours() -> None:
            for _ in ShardStream(folder, context=CONTEXT):
                pass

        plain_s, rows_s, ours_s = cpu_medians(plain, rows, ours)
    print(
        f"      million tokens per CPU second: pyarrow {num_tokens / plain_s / 1e6:.0f}, "
        f"its rows as Python values {num_tokens / rows_s / 1e6:.0f}, packs {num_tokens / ours_s / 1e6:.0f}"
    )
    return plain_s / ours_s


def _write(folder: str) -> int:
    """Two shards of random grids of 64 x 64 codes, as for 512 x 512 pixels, with captions of 100 ids."""
    rng = np.random.default_rng(0)
    storage = open_storage(folder)
    shards = []
    for number in range(2):
        file = ShardFile(f"train-{number:05d}-of-00002.parquet", "train", SCHEMA, REPEATED)
        for index in range(NUM_SAMPLES // 2):
            row = {
                "sample_id": f"{number}-{index}",
                "kind": "image",
                "split": "train",
                "caption": "x" * 400,
                "meta": f"{SIDE}*{SIDE}",
                "codes": rng.integers(0, 32_768, SIDE * SIDE).astype("<u2").tobytes(),
                "grid_t": 1,
                "grid_h": SIDE,
                "grid_w": SIDE,
                "task": "generation",
                "text_ids": rng.integers(0, 151_643, 100).tolist(),
                "meta_ids": [21, 19, 9, 21, 19],
                "num_tokens": SIDE * (SIDE + 1) + 1 + 105 + 5,
            }
            file.add(row, media_s=0.0)
            if index % 1_000 == 999:
                file.end_row_group()
        shards.append(file.write(storage, ""))
    manifest = Manifest(
        selection="benchmark", samples=digest_ids(()), vocabulary_sha256="", shards=tuple(shards)
    )
    write_manifest(storage, "", manifest)
    return manifest.num_tokens
