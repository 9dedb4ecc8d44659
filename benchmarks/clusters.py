"""Cost per embedding of clusters and semantic de-duplication: of the largest set over that of 10,000."""

from __future__ import annotations

import sys
import time

import numpy as np
import pyarrow as pa

from benchmarks.measure import high_water_bytes
from curation.stages.clusters import ClustersConfig, ClustersStage

NUMBERS = (10_000, 100_000, 1_000_000)
WIDTH = 64
"""Of the synthetic embeddings; CLIP's have 768, which `python -m benchmarks.clusters NUMBER 768` measures."""


def ratio() -> float:
    """CPU seconds per embedding."""
    costs = [cost_s(number, WIDTH) for number in NUMBERS]
    return costs[-1] / costs[0]


def cost_s(number: int, width: int) -> float:
    """CPU seconds per embedding, printed with the peak memory so far."""
    table = _population(number, width)
    stage = ClustersStage(ClustersConfig())
    started = time.process_time()
    measured = stage.measure_all(table)
    cost = (time.process_time() - started) / number
    found = measured["semantic_duplicate_of"].null_count
    print(
        f"      {number} x {width}: {cost * 1e6:.0f} us per embedding, "
        f"{1 - found / number:.1%} with a neighbor, peak {high_water_bytes() / 1e9:.1f} GB"
    )
    return cost


def _population(number: int, width: int) -> pa.Table:
    """Unit vectors around as many directions as there are clusters, block by block to spare memory."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(round(number**0.5), width)).astype(np.float32)
    blocks = []
    for start in range(0, number, 50_000):
        rows = min(50_000, number - start)
        vectors = directions[random.integers(0, len(directions), rows)]
        vectors += random.normal(size=(rows, width), scale=0.4).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        data = pa.py_buffer(vectors.astype("<f2").tobytes())
        offsets = pa.py_buffer(np.arange(rows + 1, dtype=np.int64) * width * 2)
        blocks.append(pa.Array.from_buffers(pa.large_binary(), rows, [None, offsets, data]))
    ids = pa.chunked_array([pa.array([f"{place:020d}" for place in range(number)])])
    return pa.table({"sample_id": ids, "embedding": pa.chunked_array(blocks)})


if __name__ == "__main__":
    cost_s(int(sys.argv[1]), int(sys.argv[2]))
