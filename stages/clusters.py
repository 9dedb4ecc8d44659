"""Groups samples by what they show, and drops those that show the same as another of their group.

Spherical k-means over CLIP's embeddings, then SemDeDup (Abbas et al. 2023, arXiv 2303.09540) inside each
cluster: of samples whose cosine is above 1 - epsilon one stays. Samples of a cluster are taken by their
distance from its center; each names the nearest of those taken before it, whether that one is kept or
not, so epsilon can be moved without comparing again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation.errors import ContractError
from curation.stage import Column, DatasetStage, KeepFar, StageConfig

_BLOCK_ROWS = 65_536
_BLOCK_CELLS = 16_000_000
"""Rows that are widened to float32, and cosines that are held, at the same time."""


class ClustersConfig(StageConfig):
    """Settings of the clusters and of semantic de-duplication inside them."""

    min_semantic_distance: (
        Annotated[float, KeepFar("semantic_distance", "semantic_duplicate_of"), Field(ge=0, le=2)] | None
    ) = 0.05
    """Epsilon: a sample whose 1 - cosine to one taken before it is smaller is a duplicate."""
    max_recorded: Annotated[float, Field(ge=0, le=2)] = 0.5
    """Neighbors up to this 1 - cosine are recorded, so epsilon can be moved up to here."""
    num_clusters: Annotated[int, Field(ge=1)] | None = None
    """Clusters; by default the square root of the number of samples. DenseFusion: 50,000 for LAION-2B."""
    num_iterations: Annotated[int, Field(ge=1, le=1000)] = 20
    """Iterations of k-means."""
    samples_per_cluster: Annotated[int, Field(ge=1)] = 64
    """Samples that each cluster's center is trained on, drawn from all."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the draw and of the first centers."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """Threads of k-means. Sums in another order give other last digits and now and then another cluster, so
    this is part of what the numbers depend on; 1 gives the same wherever it runs."""
    taken_first: Literal["nearest", "farthest"] = "nearest"
    """Which of a group of duplicates stays: the nearest to the cluster's center, or as in SemDeDup's
    paper the farthest."""

    @model_validator(mode="after")
    def _is_recorded(self) -> Self:
        if self.min_semantic_distance is not None and self.min_semantic_distance > self.max_recorded:
            raise ValueError("min_semantic_distance must not be above max_recorded")
        return self


class ClustersStage(DatasetStage[ClustersConfig]):
    """Assigns every sample to a cluster, and finds its nearest neighbor among those taken before it there."""

    name = "clusters"
    columns = {
        "cluster_id": Column(
            pa.int32(),
            "Number of the cluster, from 0; means nothing beyond one population.",
        ),
        "cluster_distance": Column(pa.float32(), "1 - cosine to the cluster's center, 0..2."),
        "semantic_duplicate_of": Column(
            pa.string(),
            "Sample id of the nearest sample taken before it in its cluster; null if there is none up to "
            "`max_recorded`.",
        ),
        "semantic_distance": Column(pa.float32(), "1 - cosine to that one, 0..2; null likewise."),
    }
    Config = ClustersConfig

    def distributions(self) -> Sequence[str]:
        return ("faiss-cpu",)

    def inputs(self) -> Sequence[str]:
        return ("embedding",)

    def measure_all(self, population: pa.Table) -> pa.Table:
        vectors = _matrix(population["embedding"])
        with _threads(self.config.num_threads):
            cluster, distance = _assign(vectors, self._centers(vectors))
        neighbor = np.full(len(vectors), -1)
        gap = np.zeros(len(vectors), np.float32)
        sign = 1 if self.config.taken_first == "nearest" else -1
        order = np.lexsort((np.arange(len(vectors)), sign * distance, cluster))
        starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
        for members in np.split(order, starts[1:]):
            _find_neighbors(vectors, members, neighbor, gap)
        has_none = (neighbor < 0) | (gap > self.config.max_recorded)
        return pa.table(
            {
                "cluster_id": pa.array(cluster, pa.int32()),
                "cluster_distance": pa.array(distance, pa.float32()),
                "semantic_duplicate_of": population["sample_id"].take(pa.array(neighbor, mask=has_none)),
                "semantic_distance": pa.array(gap, pa.float32(), mask=has_none),
            }
        )

    def _centers(self, vectors: NDArray[np.float16]) -> NDArray[np.float32]:
        """[K, D] centers of unit length, trained on a seeded draw."""
        import faiss

        config, number = self.config, len(vectors)
        num_clusters = min(number, config.num_clusters or max(1, round(number**0.5)))
        num_drawn = min(number, num_clusters * config.samples_per_cluster)
        drawn = np.random.default_rng(config.seed).choice(number, num_drawn, replace=False)
        kmeans = faiss.Kmeans(
            vectors.shape[1],
            num_clusters,
            niter=config.num_iterations,
            seed=config.seed,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=config.samples_per_cluster,
        )
        kmeans.train(_unit(vectors[np.sort(drawn)]))
        return np.asarray(kmeans.centroids, np.float32)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float16]:
    """[N, D] embeddings, as stored and without a copy where the column is one chunk.

    Raises:
        ContractError: they are of different lengths.
    """
    lengths = pc.unique(pc.binary_length(column)).to_pylist()
    if len(lengths) != 1:
        raise ContractError(f"embeddings are of {len(lengths)} different lengths")
    parts = [_values(chunk) for chunk in column.chunks if len(chunk)]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(len(column), -1)


def _values(chunk: pa.Array) -> NDArray[np.float16]:
    chunk = chunk.cast(pa.large_binary())
    _, offsets, data = chunk.buffers()
    ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    return np.frombuffer(data, "<f2")[ends[0] // 2 : ends[-1] // 2]


def _unit(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """Of unit length again, which half precision loses."""
    wide = rows.astype(np.float32)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


def _assign(
    vectors: NDArray[np.float16], centers: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest center of each vector, and 1 - cosine to it."""
    import faiss

    index = faiss.IndexFlatIP(centers.shape[1])
    index.add(centers)
    found: list[tuple[Any, Any]] = [
        index.search(_unit(vectors[start : start + _BLOCK_ROWS]), 1)
        for start in range(0, len(vectors), _BLOCK_ROWS)
    ]
    cosine = np.concatenate([cosines[:, 0] for cosines, _ in found])
    cluster = np.concatenate([places[:, 0] for _, places in found])
    return cluster, np.maximum(0, 1 - cosine)


def _find_neighbors(
    vectors: NDArray[np.float16],
    members: NDArray[np.int64],
    neighbor: NDArray[np.int64],
    gap: NDArray[np.float32],
) -> None:
    """Fill in, for each of `members`, the nearest of those before it and 1 - cosine to it."""
    own = _unit(vectors[members])
    for start, stop in _blocks(len(members)):
        cosines = own[start:stop] @ own[:stop].T
        cosines[np.arange(stop) >= np.arange(start, stop)[:, np.newaxis]] = -np.inf
        nearest = cosines.argmax(axis=1)
        found = np.maximum(0, 1 - cosines[np.arange(stop - start), nearest])
        first = 1 if start == 0 else 0  # nothing is before the first of all
        neighbor[members[start + first : stop]] = members[nearest[first:]]
        gap[members[start + first : stop]] = found[first:]


def _blocks(number: int) -> Iterator[tuple[int, int]]:
    rows = max(1, min(number, _BLOCK_CELLS // number))
    for start in range(0, number, rows):
        yield start, min(start + rows, number)
