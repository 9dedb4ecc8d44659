"""Histograms that grow and merge, against NumPy's of all values at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.report.summary.histogram import MAX_BINS, Histogram

NUMBERS = st.floats(-1e9, 1e9, allow_subnormal=False)


def counted(*parts: list[float]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(np.array(part, np.float64))
    return histogram


def said(histogram: Histogram) -> tuple[object, ...]:
    return histogram.exponent, histogram.start, histogram.counts.tolist(), histogram.low, histogram.high


@settings(deadline=None)
@given(st.lists(st.lists(NUMBERS, max_size=8), min_size=1, max_size=5), st.randoms())
def test_neither_order_nor_parts_make_a_difference(parts: list[list[float]], random: object) -> None:
    together = [value for part in parts for value in part]
    whole = counted(together)
    assert said(counted(*parts)) == said(whole)
    assert said(counted(*reversed(parts))) == said(whole)
    merged = Histogram()
    for part in parts:
        merged.merge(counted(part))
    assert said(merged) == said(whole)
    assert whole.total == len(together)
    assert len(whole.counts) <= MAX_BINS


@pytest.mark.parametrize("spread", [1e-6, 0.3, 7.0, 4e4])
def test_bars_are_those_of_the_values_but_for_a_bin_at_each_edge(spread: float) -> None:
    values = np.random.default_rng(0).normal(5, spread, 100_000)
    histogram = counted(*np.split(values, 100))
    assert MAX_BINS / 2 <= len(histogram.counts) <= MAX_BINS
    low, high = values.min(), values.max()
    expected, edges = np.histogram(values, 24, (low, high))
    found = histogram.bars(24, float(low), float(high))
    assert found.sum() == len(values)
    # Whatever is displaced lies within one bin of an edge of its bar.
    width = 2.0**histogram.exponent
    near = [(abs(values - edge) <= width).sum() for edge in edges]
    assert (abs(found - expected) <= np.add(near[1:], near[:-1])).all()
    assert abs(found - expected).max() < 0.005 * len(values)


@pytest.mark.parametrize("highest", [1, 5, 24, 48])
def test_bars_of_whole_numbers_are_exact(highest: int) -> None:
    values = np.random.default_rng(1).integers(0, highest + 1, 5000).astype(np.float64)
    values[:2] = 0, highest
    expected, _ = np.histogram(values, 24, (0, highest))
    assert (
        counted(values[:7].tolist(), values[7:].tolist()).bars(24, 0, highest).tolist() == expected.tolist()
    )


def test_thresholds_beyond_the_values_leave_bars_empty() -> None:
    histogram = counted([2.0, 2.0, 3.0])
    assert histogram.bars(5, 0.0, 5.0).tolist() == [0, 0, 2, 1, 0]
    assert counted([4.0] * 3).bars(2, 4.0, 5.0).tolist() == [3, 0]


def test_what_is_no_number_is_left_out() -> None:
    assert said(counted([1.0, np.nan, np.inf, 2.0])) == said(counted([1.0, 2.0]))
    assert counted([np.nan]).total == 0
