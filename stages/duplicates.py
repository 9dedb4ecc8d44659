"""Drops copies: files with the same bytes, and pictures that look the same.

Of two samples that are alike, the better one stays: more pixels, then longer, then the higher aesthetic
score, then the larger file, then the smaller sample id. Each sample names the nearest of its betters,
whether that one is kept or not, so of a chain of look-alikes only the best stays, and the threshold can
be moved without comparing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation.dataset_stage import PopulationPart, Spread, SpreadStage
from curation.stage import Column, KeepFar, StageConfig

BITS = 64
"""Of the hash of one frame."""
_CHUNK_BITS = 16
_QUERIES = 50_000
"""Hashes that one task looks for among all."""

_BEST_FIRST = [
    ("pixels", "descending"),
    ("duration_s", "descending"),
    ("aesthetic_score", "descending"),
    ("size_bytes", "descending"),
    ("sample_id", "ascending"),
]


class DuplicatesConfig(StageConfig):
    """Settings of the search for duplicates."""

    min_distance: (
        Annotated[float, KeepFar("duplicate_distance", "duplicate_of"), Field(ge=0, le=BITS)] | None
    ) = 5.0
    """Least number of bits, of 64, in which a sample's hash must differ from those of its betters."""
    max_searched: Annotated[int, Field(ge=0, le=15)] = 7
    """Look-alikes up to this many bits apart are looked for and recorded; each four more cost much more."""

    @model_validator(mode="after")
    def _is_searched(self) -> Self:
        if self.min_distance is not None and self.min_distance > self.max_searched:
            raise ValueError("min_distance must not be above max_searched, beyond which nothing is recorded")
        return self


class DuplicatesStage(SpreadStage[DuplicatesConfig]):
    """Names, for every sample, the nearest better one that looks the same."""

    name = "duplicates"
    columns = {
        "duplicate_of": Column(
            pa.string(),
            "Sample id of the nearest better one that looks the same; null if there is none.",
        ),
        "duplicate_distance": Column(
            pa.float32(),
            "Bits of 64 in which their perceptual hashes differ, on average over a clip's frames; 0 for the "
            "same bytes. Without the stage `phash` before it, only those are found.",
        ),
        "is_exact_copy": Column(
            pa.bool_(),
            "Whether their files have the same bytes, and their clips the same span.",
        ),
    }
    Config = DuplicatesConfig

    def distributions(self) -> Sequence[str]:
        return ("faiss-cpu",)

    def inputs(self) -> Sequence[str]:
        return ()

    def optional_inputs(self) -> Sequence[str]:
        return ("phash", "aesthetic_score")

    def measure_parts(
        self, population: pa.Table, parts: Sequence[PopulationPart], spread: Spread
    ) -> pa.Table:
        order = _order(population)
        ranked = population.take(order)
        found = _Nearest(ranked.num_rows)
        if "phash" in ranked.column_names:
            self._find_similar(ranked["phash"], found, spread)
        exact = _copies(ranked)
        # A copy is as near as can be, whatever its hash says.
        found.better[exact >= 0], found.distance[exact >= 0] = exact[exact >= 0], 0.0
        back = np.argsort(order)
        better, distance = found.better[back], found.distance[back]
        has_none = better < 0
        ids = ranked["sample_id"].take(pa.array(better, mask=has_none))
        return pa.table(
            {
                "duplicate_of": ids,
                "duplicate_distance": pa.array(distance, pa.float32(), mask=has_none),
                "is_exact_copy": exact[back] >= 0,
            }
        )

    def _find_similar(self, hashes: pa.ChunkedArray, found: _Nearest, spread: Spread) -> None:
        """Fill in the nearest better by hash, among samples of as many frames."""
        lengths = pc.fill_null(pc.binary_length(hashes), 0).to_numpy()
        for length in np.unique(lengths[lengths > 0]):
            places = np.flatnonzero(lengths == length)
            joined = b"".join(hashes.take(pa.array(places)).to_pylist())
            rows = np.frombuffer(joined, np.uint8).reshape(len(places), int(length))
            self._find_similar_rows(rows, places, found, spread)

    def _find_similar_rows(
        self, rows: NDArray[np.uint8], places: NDArray[np.int64], found: _Nearest, spread: Spread
    ) -> None:
        # The same hash again and again, such as that of a blank picture, would give pairs without end.
        unique, first, member = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        member = member.reshape(-1)
        best = places[first]  # places are in order of rank, and so are the first occurrences
        again = best[member] != places
        found.better[places[again]], found.distance[places[again]] = best[member][again], 0.0
        num_frames = rows.shape[1] * 8 // BITS
        search = partial(_search, unique, best, self.config.max_searched * num_frames)
        for rank, other, bits in spread(search, range(0, len(unique), _QUERIES)):
            found.add(rank, other, (bits / num_frames).astype(np.float32))


class _Pairs(NamedTuple):
    """Pairs of look-alikes: rank of a sample, rank of a better one, and the bits in which they differ."""

    rank: NDArray[np.int64]
    other: NDArray[np.int64]
    bits: NDArray[np.float32]


class _Nearest:
    """For every rank, the nearest rank above it so far."""

    def __init__(self, number: int) -> None:
        self.better = np.full(number, -1)
        self.distance = np.zeros(number, np.float32)

    def add(self, rank: NDArray[np.int64], other: NDArray[np.int64], distance: NDArray[np.float32]) -> None:
        """Set the nearest betters of ranks that had none so far."""
        self.better[rank], self.distance[rank] = other, distance


def _order(population: pa.Table) -> NDArray[np.int64]:
    """Places in the population, the best sample first; what is not known counts as least."""
    pixels = pc.multiply(population["width"].cast(pa.int64()), population["height"].cast(pa.int64()))
    table = population.append_column("pixels", pixels)
    keys = [key for key in _BEST_FIRST if key[0] in table.column_names]
    return np.asarray(pc.sort_indices(table, keys).to_numpy(), np.int64)


def _copies(ranked: pa.Table) -> NDArray[np.int64]:
    """For every rank the best one with the same bytes and span; -1 where it is that itself."""
    seen: dict[tuple[Any, ...], int] = {}
    copies = np.full(ranked.num_rows, -1)
    keys = zip(*(ranked[name].to_pylist() for name in ("content_hash", "start_s", "end_s")), strict=True)
    for rank, key in enumerate(keys):
        if key[0] is not None and seen.setdefault(key, rank) != rank:
            copies[rank] = seen[key]
    return copies


def _search(hashes: NDArray[np.uint8], rank: NDArray[np.int64], max_bits: int, first: int) -> _Pairs:
    """The nearest better look-alike of each hash from `first` on, up to `_QUERIES` of them.

    Of two hashes that differ in r bits, some 16-bit chunk of m differs in r / m or fewer, so looking up
    all chunks with that many bits flipped misses none.

    Args:
        hashes: [N, B] uint8, all different.
        rank: [N] of each hash.
        max_bits: Hashes that differ in more are not alike.
        first: Where the hashes to look for begin.
    """
    import faiss

    num_bits = hashes.shape[1] * 8
    num_chunks = num_bits // _CHUNK_BITS
    index = faiss.IndexBinaryMultiHash(num_bits, num_chunks, _CHUNK_BITS)
    index.nflip = max_bits // num_chunks
    index.add(np.ascontiguousarray(hashes))
    queries = np.ascontiguousarray(hashes[first : first + _QUERIES])
    limits, bits, other = index.range_search(queries, max_bits + 1)
    query = np.repeat(
        np.arange(first, first + len(queries)), np.diff(limits.astype(np.int64)).astype(np.int64)
    )
    return _nearest(rank[query], rank[other.astype(np.int64)], bits.astype(np.float32))


def _nearest(rank: NDArray[np.int64], other: NDArray[np.int64], bits: NDArray[np.float32]) -> _Pairs:
    """Of each rank's betters the nearest, of equally near ones the best."""
    is_better = other < rank
    rank, other, bits = rank[is_better], other[is_better], bits[is_better]
    order = np.lexsort((other, bits, rank))
    rank, first = np.unique(rank[order], return_index=True)
    return _Pairs(rank, other[order][first], bits[order][first])
