"""Duplicates: against comparing everything with everything, and small cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from curation.stages.duplicates import DuplicatesConfig, DuplicatesStage
from generated import population


def stage(**settings):
    return DuplicatesStage(DuplicatesConfig(**settings))


def rows_of(table, **settings):
    return stage(**settings).measure_all(table).to_pylist()


def flipped(value, *bits):
    for bit in bits:
        value ^= 1 << bit
    return value


def hashes(*values, num_bytes=8):
    return [value.to_bytes(num_bytes) for value in values]


def planted(number, num_bytes, seed=0):
    """Random hashes, every third followed by two with up to so many bits flipped."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (number, num_bytes), np.uint8)
    for start in range(0, number - 2, 3):
        for place in (start + 1, start + 2):
            rows[place] = rows[start]
            for bit in random.choice(num_bytes * 8, random.integers(0, num_bytes + 4), replace=False):
                rows[place, bit // 8] ^= 1 << (bit % 8)
    return rows[random.permutation(number)]


@pytest.mark.parametrize(("num_bytes", "max_searched"), [(8, 7), (8, 3), (8, 9), (24, 7)])
def test_nearest_better_is_that_of_comparing_all_pairs(num_bytes, max_searched):
    rows = planted(1500, num_bytes)
    pixels = np.random.default_rng(1).integers(100, 110, len(rows))
    table = population(len(rows), phash=[row.tobytes() for row in rows], width=pixels)
    bits = np.unpackbits(rows[:, np.newaxis] ^ rows[np.newaxis], axis=-1).sum(axis=-1) / (num_bytes / 8)
    order = np.lexsort((np.arange(len(rows)), -pixels))
    rank = np.argsort(order)
    num_found = 0
    for place, row in enumerate(rows_of(table, max_searched=max_searched, min_distance=None)):
        better = [
            int(other) for other in np.flatnonzero(rank < rank[place]) if bits[place, other] <= max_searched
        ]
        near = min(better, key=lambda other: (bits[place, other], rank[other]), default=None)
        assert row["duplicate_of"] == (None if near is None else f"sample{near:05d}")
        assert row["duplicate_distance"] == (None if near is None else pytest.approx(bits[place, near]))
        num_found += near is not None
    assert num_found > 300


def test_better_one_stays():
    """More pixels, then longer, then the higher score, then the larger file, then the smaller id."""
    same = hashes(*[5] * 6)
    table = population(
        6,
        phash=same,
        width=[100, 100, 100, 100, 200, 100],
        duration_s=[1.0, 1.0, 1.0, 2.0, 1.0, 1.0],
        aesthetic_score=[None, 6.0, 6.0, 4.0, 1.0, 5.0],
        size_bytes=[9, 5, 6, 1, 1, 9],
    )
    kept = [row["duplicate_of"] is None for row in rows_of(table)]
    assert kept == [False, False, False, False, True, False]
    for without, best in (([4], 3), ([3, 4], 2), ([2, 3, 4], 1), ([1, 2, 3, 4], 5), ([1, 2, 3, 4, 5], 0)):
        rest = [place for place in range(6) if place not in without]
        rows = rows_of(table.take(rest))
        assert [place for place, row in zip(rest, rows, strict=True) if row["duplicate_of"] is None] == [best]


def test_of_a_chain_only_the_best_stays_and_the_threshold_can_be_moved():
    table = population(3, phash=hashes(0, flipped(0, 1, 9, 17), flipped(0, 1, 9, 17, 25, 33, 41, 49)))
    rows = rows_of(table)
    assert [row["duplicate_of"] for row in rows] == [None, "sample00000", "sample00001"]
    assert [row["duplicate_distance"] for row in rows] == [None, 3.0, 4.0]
    reasons = {
        limit: [stage(min_distance=limit).reject_reason(row) for row in rows]
        for limit in (3.0, 4.0, 4.1, None)
    }
    assert reasons == {
        3.0: [None, None, None],
        4.0: [None, "duplicate_of", None],
        4.1: [None, "duplicate_of", "duplicate_of"],
        None: [None, None, None],
    }


def test_same_bytes_are_found_without_hashes_of_pictures_and_come_first():
    table = population(4, content_hash=["a", "b", "a", None], width=[1, 9, 1, 1])
    rows = rows_of(table)
    assert [row["duplicate_of"] for row in rows] == [None, None, "sample00000", None]
    assert rows[2] == {"duplicate_of": "sample00000", "duplicate_distance": 0.0, "is_exact_copy": True}
    # By its hash, sample 2 is as near to sample 1, which is better; its copy is named all the same.
    rows = rows_of(table.append_column("phash", [hashes(7, 7, 7, 7)]))
    assert [row["duplicate_of"] for row in rows] == ["sample00001", None, "sample00000", "sample00001"]
    assert [row["is_exact_copy"] for row in rows] == [False, False, True, False]


def test_clips_of_the_same_file_are_no_copies_but_those_of_the_same_span_are():
    table = population(3, content_hash=["a"] * 3, start_s=[0.0, 2.0, 0.0], end_s=[2.0, 4.0, 2.0])
    assert [row["is_exact_copy"] for row in rows_of(table)] == [False, False, True]


def test_hashes_of_other_length_and_absent_ones_are_not_compared():
    table = population(4, phash=[*hashes(3, 3), *hashes(3, num_bytes=24), None])
    assert [row["duplicate_of"] for row in rows_of(table)] == [None, "sample00000", None, None]


def test_a_hundred_thousand_times_the_same_picture_is_no_matter():
    number = 100_000
    rows = rows_of(population(number, phash=hashes(0) * number))
    assert [row["duplicate_of"] for row in rows] == [None] + ["sample00000"] * (number - 1)


def test_nothing_beyond_what_is_searched_can_be_asked_for():
    with pytest.raises(ValidationError, match="must not be above max_searched"):
        DuplicatesConfig(min_distance=8.0)
    assert DuplicatesConfig(min_distance=8.0, max_searched=8).min_distance == 8.0


def test_how_far_is_searched_is_a_measurement_and_the_threshold_is_not():
    assert stage(min_distance=2.0).measure_settings() == {"max_searched": 7}
