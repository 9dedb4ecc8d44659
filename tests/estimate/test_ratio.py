"""Totals and intervals, held against calculations by hand and against what many draws give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from curation.estimate.ratio import Estimate, Stratum, estimate

T_3 = 3.1824463
"""Quantile 0.975 of Student's t with 3 degrees of freedom, from printed tables (as all of those below)."""


def of(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def test_total_by_number() -> None:
    """4 of 10 sources have 1, 2, 3, 6 clips and sizes that say nothing of it.

    By hand: the mean is 3, so the total 30. s^2 = (4 + 1 + 0 + 9) / 3 = 14/3, and the variance of the total
    10^2 (1 - 4/10) / 4 * 14/3 = 70.
    """
    found = estimate({"video": Stratum(10, 100.0, of(10, 1, 10, 1))}, {"video": of(1, 2, 3, 6)})
    assert found.value == pytest.approx(30)
    assert found.standard_error == pytest.approx(math.sqrt(70))
    low, high = found.interval()
    assert high == pytest.approx(30 + T_3 * math.sqrt(70), rel=0.01)
    assert low == pytest.approx(30 - T_3 * math.sqrt(70), abs=0.3)


def test_total_by_size() -> None:
    """Seconds that go with bytes: 2, 4, 6, 13 of 1, 2, 3, 6 bytes; all 10 sources have 60 bytes.

    By hand: the ratio is 25/12, so the total 125. What it leaves is -1/12, -2/12, -3/12, 6/12, of which
    s^2 = 50/144 / 3, and the variance is 10^2 (1 - 4/10) / 4 * 50/432 = 750/432.
    """
    found = estimate({"image": Stratum(10, 60.0, of(1, 2, 3, 6))}, {"image": of(2, 4, 6, 13)})
    assert found.value == pytest.approx(125)
    assert found.standard_error == pytest.approx(math.sqrt(750 / 432))


def test_all_sources_leave_nothing_open() -> None:
    found = estimate({"image": Stratum(3, 6.0, of(1, 2, 3))}, {"image": of(5, 1, 9)})
    assert found.value == pytest.approx(15)
    assert found.interval() == pytest.approx((15, 15))


def test_sum_of_strata_and_of_estimates_that_vary_together() -> None:
    """Variances of strata add up; of two values of the same sources one may cancel the other."""
    strata = {"image": Stratum(8, 8.0, of(1, 1)), "video": Stratum(6, 6.0, of(1, 1, 1))}
    one = estimate(strata, {"image": of(0, 2), "video": of(1, 2, 3)})
    # By hand: 8^2 (1 - 1/4) / 2 * 2 = 48, and 6^2 (1 - 1/2) / 3 * 1 = 6.
    assert (one.value, one.standard_error) == (pytest.approx(8 + 12), pytest.approx(math.sqrt(54)))
    other = estimate(strata, {"image": of(2, 0), "video": of(3, 2, 1)})
    assert (one + other).standard_error == pytest.approx(0)
    assert one.scaled(2, 5).value == pytest.approx(45)
    assert one.scaled(2, 5).standard_error == pytest.approx(2 * math.sqrt(54))


def test_ratio_of_totals() -> None:
    """Pass rate: 1 of 2 rows in one source, 2 of 2 in the other, of 4 alike.

    By hand: 3/4. Of each source is left 1 - 3/4 * 2 = -1/2 and 1/2; the variance of their total is
    4^2 (1 - 1/2) / 2 * 1/2 = 2, that of the ratio 2 / 8^2.
    """
    strata = {"video": Stratum(4, 4.0, of(1, 1))}
    rows = estimate(strata, {"video": of(2, 2)})
    rate = estimate(strata, {"video": of(1, 2)}).over(rows)
    assert rate is not None
    assert (rate.value, rate.standard_error) == (pytest.approx(0.75), pytest.approx(math.sqrt(2) / 8))
    assert rows.over(estimate(strata, {"video": of(0, 0)})) is None


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (60, 2.000)]
)
def test_quantiles(degrees: int, quantile: float) -> None:
    """Of n + 1 deviations, as printed tables of Student's t give them at 0.975."""
    deviations = np.zeros(degrees + 1)
    deviations[0] = 1.0
    low, high = Estimate(100.0, {"a": deviations}).interval()
    assert (high - low) / 2 == pytest.approx(quantile, rel=0.01)


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """400 draws of 40 from 1,000 sources whose seconds go with their log-normal sizes, more or less."""
    random = np.random.default_rng(1)
    sizes = random.lognormal(0, 0.8, 1000)
    seconds = sizes * random.uniform(0.5, 1.5, 1000)
    inside = []
    for _ in range(400):
        drawn = random.choice(1000, 40, replace=False)
        found = estimate({"a": Stratum(1000, float(sizes.sum()), sizes[drawn])}, {"a": seconds[drawn]})
        low, high = found.interval()
        inside.append(low <= seconds.sum() <= high)
    assert 0.90 <= np.mean(inside) <= 0.99
