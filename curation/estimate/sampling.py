"""Draws the sources of a pilot: at random, and spread over kinds, containers and sizes.

Each kind of source gets its part of the pilot by the mean of its share of the sources and of the bytes, since
a few videos may be most of the work. Within a kind every k-th source is drawn from a random start, in order
of file type and size, so that small and large ones come in as they are there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import ConfigError

FEWEST = 5
"""Of each kind at least so many, if there are."""


def draw_sources(listed: pa.Table, number: int, seed: int) -> NDArray[np.int64]:
    """Places of `number` sources of a listing, in order.

    Raises:
        ConfigError: there are fewer.
    """
    if number > listed.num_rows:
        left = "1 source is" if listed.num_rows == 1 else f"{listed.num_rows} sources are"
        raise ConfigError(f"--pilot {number}: only {left} left to be measured; take fewer")
    random = np.random.default_rng(seed)
    sizes = listed["size_bytes"].to_numpy().astype(np.float64)
    places = places_by_kind(listed)
    shares = _shares({kind: sizes[mine] for kind, mine in places.items()})
    drawn = [
        _spread(listed, sizes, mine, count, random)
        for mine, count in zip(places.values(), _counts(places, shares, number), strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def places_by_kind(listed: pa.Table) -> dict[str, NDArray[np.int64]]:
    """Kind -> places of its sources in a listing, kinds in order."""
    kinds = listed["kind"]
    return {
        kind: np.flatnonzero(pc.equal(kinds, kind).to_numpy())
        for kind in sorted(pc.unique(kinds).to_pylist())
    }


def _shares(sizes: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Kind -> mean of its share of the sources and of the bytes."""
    number = sum(map(len, sizes.values()))
    total = sum(float(one.sum()) for one in sizes.values()) or 1.0
    return {kind: (len(one) / number + float(one.sum()) / total) / 2 for kind, one in sizes.items()}


def _counts(places: Mapping[str, NDArray[np.int64]], shares: Mapping[str, float], number: int) -> list[int]:
    """How many are drawn of each kind."""
    fewest = min(FEWEST, number // len(places))
    counts = {kind: min(len(mine), fewest) for kind, mine in places.items()}
    while sum(counts.values()) < number:
        lacking = {
            kind: shares[kind] * number - count for kind, count in counts.items() if count < len(places[kind])
        }
        counts[max(lacking, key=lambda kind: lacking[kind])] += 1
    return list(counts.values())


def _spread(
    listed: pa.Table,
    sizes: NDArray[np.float64],
    mine: NDArray[np.int64],
    count: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """`count` of the sources at `mine`: every k-th by file type and size, from a random start."""
    if not count:
        return mine[:0]
    names = listed["uri"].take(pa.array(mine))
    ends = pc.struct_field(pc.extract_regex(names, r"(?P<end>\.[^./]*)$"), "end").fill_null("")
    types = ends.combine_chunks().dictionary_encode().indices.to_numpy()
    order = mine[np.lexsort((sizes[mine], types))]
    step = len(order) / count
    at = np.floor(random.uniform(0, step) + step * np.arange(count)).astype(np.int64)
    drawn: NDArray[np.int64] = order[np.minimum(at, len(order) - 1)]
    return drawn
