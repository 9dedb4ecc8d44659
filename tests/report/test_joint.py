"""The joint distribution: exact at every stop, whatever the order, the parts and the number of bins."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.ledger import Ledger
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.report.joint import joint as joint_module
from curation.report.joint.grid import FAILED, MAX_BINS, MISSING, NULL, Grid, edges, positions
from curation.report.joint.joint import Joint, JointBuilder
from random_ledgers import NUM_UNITS, a_pipeline, random_ledger

NUMBERS = st.floats(-1e12, 1e12) | st.integers(-3000, 3000).map(lambda n: n / 100)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(NUMBERS, min_size=1, max_size=400), min_size=1, max_size=4),
    st.lists(st.sampled_from([5.5, 0.1, 0.003, 512.0, -2.0]), max_size=2),
)
def test_codes_keep_each_number_on_its_side_of_every_stop(
    groups: list[list[float]], bounds: list[float]
) -> None:
    grid, parts = Grid.around(bounds), []
    for group in groups:
        values = np.array(group)
        grid.cover(values)
        parts.append((values, grid.encode(values), grid.spacing))
    stops = grid.stops()
    assert len(grid.occupied) <= MAX_BINS
    assert set(bounds) <= set(stops)
    for values, codes, spacing in parts:
        typical = grid.typical(grid.recode(codes, spacing))
        np.testing.assert_array_equal(positions(typical, stops), positions(values, stops))


@given(st.integers(-(10**6), 10**6), st.integers(-14, 6))
def test_edges_are_the_floats_that_their_decimals_are_read_as(place: int, spacing: int) -> None:
    """So that a threshold written in a file is the edge itself."""
    tens, half = divmod(spacing, 2)
    written = f"{place * (5 if half else 1)}e{tens}"
    assert edges(np.array([place]), spacing)[0] == float(written)


def test_order_and_parts_make_no_difference() -> None:
    values = np.random.default_rng(0).lognormal(0, 3, 5000)
    one, other = Grid.around([1.0]), Grid.around([1.0])
    one.cover(values)
    for part in np.array_split(values[::-1], 7):
        piece = Grid.around([1.0])
        piece.cover(part)
        other.merge(piece)
    assert one.spacing == other.spacing
    np.testing.assert_array_equal(one.occupied, other.occupied)


def test_stops_are_numbers_that_people_write() -> None:
    """Also of few scores, which bins of a ten-millionth would tell apart."""
    grid = Grid.around([5.5])
    grid.cover(np.array([4.8371629, 5.2102642, 5.9000301]))
    assert {f"{stop:.10g}" for stop in grid.stops(span=1.0)} == {
        "4.83", "4.84", "5.21", "5.22", "5.5", "5.9", "5.91",
    }  # fmt: skip


def built(ledger: Ledger, pipeline: Pipeline, units: list[int] | None = None) -> JointBuilder:
    builder = JointBuilder(pipeline)
    for group in verdict_groups(ledger, pipeline, units=units):
        builder.add(group)
    return builder


def measured_values(ledger: Ledger, pipeline: Pipeline, kind: str, key: str, column: str) -> np.ndarray:
    found = [
        group.samples[kind].evaluator.measured[key].values[column]  # type: ignore[index]
        for group in verdict_groups(ledger, pipeline)
    ]
    return np.concatenate(found)


def check(joint: Joint, ledger: Ledger, pipeline: Pipeline, kind: str) -> int:
    """Hold every column's counts at every stop against the ledger's values; how many were held."""
    num_checked = 0
    for column in joint.columns:
        if column.column is None:
            continue
        values = measured_values(ledger, pipeline, kind, column.step, column.column)
        for place, stop in enumerate(column.stops):
            at = 3 + 2 * place + 1
            numbers = column.codes >= 3
            assert joint.samples[numbers & (column.codes >= at)].sum() == (values >= stop).sum()
            assert joint.samples[numbers & (column.codes <= at)].sum() == (values <= stop).sum()
            num_checked += 1
    return num_checked


@pytest.mark.parametrize("few", [False, True])
def test_counts_are_exact_at_every_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: bool) -> None:
    """Also when bins had to be joined, because cells are few."""
    if few:
        monkeypatch.setattr(joint_module, "MAX_CELLS", 3)
        monkeypatch.setattr(joint_module, "PAGE_CELLS", 3)
        monkeypatch.setattr(joint_module, "MAX_STOPS", 4)
    pipeline = a_pipeline(tmp_path)
    for seed in range(3):
        ledger = random_ledger(pipeline, tmp_path / f"{seed}", seed, contradictions=False)
        for kind, joint in built(ledger, pipeline).finish().items():
            assert check(joint, ledger, pipeline, kind) >= 8
            assert joint.samples.sum() == sum(
                group.samples[kind].evaluator.number for group in verdict_groups(ledger, pipeline)
            )


def test_parts_merge_into_the_whole(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 3, contradictions=False)
    parts = [built(ledger, pipeline, [unit]) for unit in range(NUM_UNITS)]
    for part in parts[1:]:
        parts[0].merge(part)
    merged, whole = parts[0].finish(), built(ledger, pipeline).finish()
    assert merged.keys() == whole.keys()
    for kind in merged:
        np.testing.assert_array_equal(merged[kind].leaves, whole[kind].leaves)
        for one, other in zip(merged[kind].columns, whole[kind].columns, strict=True):
            np.testing.assert_array_equal(one.stops, other.stops)
            np.testing.assert_array_equal(one.codes, other.codes)


def test_codes_without_numbers_stay_apart() -> None:
    grid = Grid.around([1.0])
    grid.cover(np.array([0.5, 2.0]))
    before, codes = grid.spacing, np.array([MISSING, FAILED, NULL])
    grid.coarsen()
    assert list(grid.recode(codes, before)) == [MISSING, FAILED, NULL]
    assert np.isnan(grid.typical(codes)).all()
    assert all(a < b for a, b in itertools.pairwise(codes))
