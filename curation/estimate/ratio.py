"""Totals of many sources, from a few that were drawn: ratio estimates, and how far they may be off.

    stratum = Stratum(number=5000, total_size=2.1e9, sizes=sizes_of_the_drawn)
    clips = estimate({"video": stratum}, {"video": clips_of_the_drawn})
    clips.value, clips.interval()

Of each stratum a value is scaled up either by the number of sources or by their size in bytes, which is known
of all: by whichever explains more of what differs between the drawn ones. The variance is that of a simple
random sample (Cochran, Sampling Techniques, 3rd ed., 1977, eqs. 2.20 and 6.9), with its correction for a
sample that is a large part of all. An estimate keeps the deviation of every drawn source, so that sums and
ratios of estimates know what varies together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stratum:
    """Sources of one kind.

    Attributes:
        number: How many there are.
        total_size: Bytes of all of them.
        sizes: float64 [n], bytes of those that were drawn.
    """

    number: int
    total_size: float
    sizes: Floats

    def scale(self, values: Floats) -> tuple[float, float]:
        """`a` and `b`: the total of `values` over all is `a` times their sum, or, where they go with size,
        `b` times it; one of the two is 0.
        """
        by_number = self.number / len(values)
        total = self.sizes.sum()
        if total <= 0 or _rest(values, np.ones_like(values)) <= _rest(values, self.sizes):
            return by_number, 0.0
        return 0.0, self.total_size / total


def _rest(values: Floats, sizes: Floats) -> float:
    """Sum of squares of what `sizes` do not explain."""
    return float(np.square(values - values.sum() / sizes.sum() * sizes).sum())


@dataclass(frozen=True)
class Estimate:
    """An estimate of a total, or of a ratio of totals.

    Attributes:
        value: The estimate.
        deviations: Stratum -> float64 [n], of each drawn source: their squares sum up to the variance.
    """

    value: float
    deviations: Mapping[str, Floats]

    def __add__(self, other: Estimate) -> Estimate:
        names = {*self.deviations, *other.deviations}
        return Estimate(
            self.value + other.value,
            {name: _of(self, other, name) + _of(other, self, name) for name in sorted(names)},
        )

    def scaled(self, factor: float, constant: float = 0.0) -> Estimate:
        """`factor` times it, and a constant that is known."""
        return Estimate(
            factor * self.value + constant, {name: factor * one for name, one in self.deviations.items()}
        )

    def over(self, other: Estimate) -> Estimate | None:
        """The ratio of two totals of the same sources; None where the other one is 0."""
        if not other.value:
            return None
        ratio = self.value / other.value
        rest = self + other.scaled(-ratio)
        return Estimate(ratio, {name: one / other.value for name, one in rest.deviations.items()})

    @property
    def standard_error(self) -> float:
        """Square root of the variance."""
        return math.sqrt(sum(float(np.square(one).sum()) for one in self.deviations.values()))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Bounds between which the truth lies with this probability; a total is never below 0."""
        half = _t_quantile((1 + level) / 2, self._degrees()) * self.standard_error
        return max(0.0, self.value - half), self.value + half

    def _degrees(self) -> float:
        """Degrees of freedom (Welch and Satterthwaite)."""
        variances = {name: float(np.square(one).sum()) for name, one in self.deviations.items()}
        below = sum(
            variance**2 / max(1, len(self.deviations[name]) - 1) for name, variance in variances.items()
        )
        return sum(variances.values()) ** 2 / below if below else math.inf


def _of(one: Estimate, other: Estimate, name: str) -> Floats:
    """The deviations of a stratum; 0 where only the other estimate has it."""
    return one.deviations[name] if name in one.deviations else np.zeros_like(other.deviations[name])


ZERO = Estimate(0.0, {})


def estimate(strata: Mapping[str, Stratum], values: Mapping[str, Floats]) -> Estimate:
    """The total over all sources, of the values of those that were drawn."""
    found = ZERO
    for name, stratum in strata.items():
        mine = values[name]
        if len(mine):
            found += _of_stratum(name, stratum, mine)
    return found


def _of_stratum(name: str, stratum: Stratum, values: Floats) -> Estimate:
    number = len(values)
    by_number, by_size = stratum.scale(values)
    basis = stratum.sizes if by_size else np.ones_like(values)
    rest = values - values.sum() / basis.sum() * basis
    share_left = 1 - number / stratum.number
    factor = stratum.number * math.sqrt(share_left / (number * (number - 1))) if number > 1 else 0.0
    return Estimate((by_number or by_size) * float(values.sum()), {name: factor * rest})


def _t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees, else by Abramowitz and Stegun 26.7.5."""
    if degrees < 2:
        return math.tan(math.pi * (probability - 0.5))
    if degrees < 3:
        alpha = 2 * probability - 1
        return alpha * math.sqrt(2 / (1 - alpha**2))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))
