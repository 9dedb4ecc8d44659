"""Groups samples by what they show, and drops those that show the same as another of their group.

Spherical k-means over CLIP's embeddings, then SemDeDup (Abbas et al. 2023, arXiv 2303.09540) inside each
cluster: of samples whose cosine is above 1 - epsilon one stays. Samples of a cluster are taken by their
distance from its center; each names the nearest of those taken before it, whether that one is kept or
not, so epsilon can be moved without comparing again.

Embeddings are read by tasks: once for the draw, once to find the clusters, and once per quarter of a million
samples to compare those of some clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation.dataset_stage import PopulationPart, Spread, SpreadStage
from curation.errors import ContractError
from curation.stage import Column, KeepFar, StageConfig

_BLOCK_ROWS = 65_536
_BLOCK_CELLS = 16_000_000
"""Rows that are widened to float32, and cosines that are held, at the same time."""
_BUCKET_ROWS = 262_144
"""Samples whose clusters one task compares: 400 MB of embeddings of 768 dimensions."""
_PAIRS = 8_192
"""Pairs that are widened to float64 at the same time."""
_ROUNDING = 2e-6
"""Cosines in float32 that differ by less may be equal, or the other way round."""
_MAX_TIES = 64
"""Equally near rows that are compared exactly."""


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


class ClustersStage(SpreadStage[ClustersConfig]):
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
    version = 2

    def distributions(self) -> Sequence[str]:
        return ("faiss-cpu",)

    def inputs(self) -> Sequence[str]:
        return ("embedding",)

    def measure_parts(
        self, population: pa.Table, parts: Sequence[PopulationPart], spread: Spread
    ) -> pa.Table:
        number = population.num_rows
        centers = self._centers(number, parts, spread)
        cluster, distance = np.empty(number, np.int64), np.empty(number, np.float32)
        threads = self.config.num_threads
        for part, found in zip(parts, spread(partial(_assign, centers, threads), parts), strict=True):
            cluster[part.places], distance[part.places] = found
        neighbor, gap = np.full(number, -1), np.zeros(number, np.float32)
        sign = 1 if self.config.taken_first == "nearest" else -1
        order = np.lexsort((np.arange(number), sign * distance, cluster))
        buckets = list(_buckets(order, cluster[order]))
        for members, found in zip(buckets, spread(partial(_neighbors, parts), buckets), strict=True):
            neighbor[members.places], gap[members.places] = found
        has_none = (neighbor < 0) | (gap > self.config.max_recorded)
        return pa.table(
            {
                "cluster_id": pa.array(cluster, pa.int32()),
                "cluster_distance": pa.array(distance, pa.float32()),
                "semantic_duplicate_of": population["sample_id"].take(pa.array(neighbor, mask=has_none)),
                "semantic_distance": pa.array(gap, pa.float32(), mask=has_none),
            }
        )

    def _centers(self, number: int, parts: Sequence[PopulationPart], spread: Spread) -> NDArray[np.float32]:
        """[K, D] centers of unit length, trained on a seeded draw."""
        import faiss

        config = self.config
        num_clusters = min(number, config.num_clusters or max(1, round(number**0.5)))
        num_drawn = min(number, num_clusters * config.samples_per_cluster)
        drawn = np.sort(np.random.default_rng(config.seed).choice(number, num_drawn, replace=False))
        vectors = _gathered(parts, drawn, spread)
        kmeans = faiss.Kmeans(
            vectors.shape[1],
            num_clusters,
            niter=config.num_iterations,
            seed=config.seed,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=config.samples_per_cluster,
        )
        with _threads(config.num_threads):
            kmeans.train(_unit(vectors))
        return np.asarray(kmeans.centroids, np.float32)


@dataclass(frozen=True)
class _Bucket:
    """Whole clusters that one task compares.

    Attributes:
        places: [N], where their samples are in the population, cluster by cluster as they are taken.
        starts: Where each cluster but the first begins in `places`.
    """

    places: NDArray[np.int64]
    starts: NDArray[np.int64]


def _buckets(order: NDArray[np.int64], cluster: NDArray[np.int64]) -> Iterator[_Bucket]:
    """Clusters in order, in buckets of up to `_BUCKET_ROWS` samples; a larger cluster is alone."""
    bounds = [*np.flatnonzero(np.diff(cluster, prepend=-1)).tolist(), len(order)]
    starts: list[int] = []
    for start, stop in pairwise(bounds):
        if starts and stop - starts[0] > _BUCKET_ROWS:
            yield _Bucket(order[starts[0] : start], np.array(starts[1:], np.int64) - starts[0])
            starts = []
        starts.append(start)
    if starts:
        yield _Bucket(order[starts[0] :], np.array(starts[1:], np.int64) - starts[0])


def _gathered(
    parts: Sequence[PopulationPart], places: NDArray[np.int64], spread: Spread
) -> NDArray[np.float16]:
    """[len(places), D] embeddings of the samples at sorted places, read by tasks.

    Raises:
        ContractError: embeddings are of different lengths.
    """
    found: NDArray[np.float16] | None = None
    for part, rows in zip(parts, spread(partial(_picked, places), parts), strict=True):
        if found is None:
            found = np.empty((len(places), rows.shape[1]), np.float16)
        if rows.shape[1] != found.shape[1]:
            raise ContractError(f"embeddings are of different lengths: {found.shape[1]} and {rows.shape[1]}")
        found[np.searchsorted(places, part.places[np.isin(part.places, places)])] = rows
    return np.empty((0, 1), np.float16) if found is None else found


def _picked(places: NDArray[np.int64], part: PopulationPart) -> NDArray[np.float16]:
    """[N, D] embeddings of those of a part's samples that are at `places`, in the part's order."""
    return _embeddings(part)[np.isin(part.places, places)]


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


def _embeddings(part: PopulationPart) -> NDArray[np.float16]:
    return _matrix(part.read(["embedding"])["embedding"])


def _assign(
    centers: NDArray[np.float32], num_threads: int, part: PopulationPart
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest center of each of a part's samples, and 1 - cosine to it.

    Products of matrices differ in the last digit by where in the matrix a row stands. So the two nearest
    are compared again by `_cosines`, which does not, and a sample's row is the same in any part.
    """
    import faiss

    vectors = _embeddings(part)
    known, first = np.unique(centers, axis=0, return_index=True)
    index = faiss.IndexFlatIP(known.shape[1])
    index.add(known)
    cluster, distance = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    with _threads(num_threads):
        for start in range(0, len(vectors), _BLOCK_ROWS):
            rows = _unit(vectors[start : start + _BLOCK_ROWS])
            _, near = index.search(rows, min(2, len(known)))
            cosines = np.stack([_cosines(rows, known[places]) for places in near.T], axis=1)
            # Of equally near ones the one with the lower number.
            best = np.lexsort((first[near], -cosines), axis=1)[:, :1]
            cluster[start : start + len(rows)] = first[np.take_along_axis(near, best, 1)[:, 0]]
            distance[start : start + len(rows)] = _gap(np.take_along_axis(cosines, best, 1)[:, 0])
    return cluster, distance


def _cosines(rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """The product of each row with its other: the same wherever in the array it stands."""
    found: NDArray[np.float64] = np.einsum("ij,ij->i", rows, others, dtype=np.float64)
    return found


def _gap(cosines: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.maximum(0, 1 - cosines).astype(np.float32)


def _neighbors(
    parts: Sequence[PopulationPart], bucket: _Bucket
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each sample of a bucket, the place of the nearest before it in its cluster, and 1 - cosine to it.

    -1 for the first of each cluster. All parts are read, so that no embeddings lie about anywhere else.
    """
    places = np.sort(bucket.places)
    vectors = _gathered(parts, places, map)[np.searchsorted(places, bucket.places)]
    neighbor, gap = np.full(len(vectors), -1), np.zeros(len(vectors), np.float32)
    for members in np.split(np.arange(len(vectors)), bucket.starts):
        own = _unit(vectors[members])
        before, gap[members] = _find_neighbors(own)
        neighbor[members[1:]] = bucket.places[members[before[1:]]]
    return neighbor, gap


def _find_neighbors(own: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each row [N, D] the nearest row before it, of equally near ones the first, and 1 - cosine to it."""
    nearest, gap = np.zeros(len(own), np.int64), np.zeros(len(own), np.float32)
    for start, stop in _blocks(len(own)):
        cosines = own[start:stop] @ own[:stop].T
        cosines[np.arange(stop) >= np.arange(start, stop)[:, np.newaxis]] = -np.inf
        if start == 0:
            cosines[0] = np.inf  # nothing is before the first of all
        row, other = _candidates(cosines)
        exact = np.concatenate(
            [
                _cosines(own[start + row[k : k + _PAIRS]], own[other[k : k + _PAIRS]])
                for k in range(0, len(row), _PAIRS)
            ]
        )
        order = np.lexsort((other, -exact, row))
        chosen = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
        nearest[start:stop], gap[start:stop] = other[chosen], _gap(exact[chosen])
    gap[:1] = 0.0
    return nearest, gap


def _candidates(cosines: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of what may be the largest of its row [N, M]: of very many the first `_MAX_TIES`."""
    row, column = np.nonzero(cosines >= cosines.max(axis=1, keepdims=True) - _ROUNDING)
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    rank = np.arange(len(row)) - np.repeat(starts, np.diff(starts, append=len(row)))
    return row[rank < _MAX_TIES], column[rank < _MAX_TIES]


def _blocks(number: int) -> Iterator[tuple[int, int]]:
    rows = max(1, min(number, _BLOCK_CELLS // number))
    for start in range(0, number, rows):
        yield start, min(start + rows, number)
