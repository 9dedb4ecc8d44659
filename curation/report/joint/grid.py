"""Numbers in bins whose edges are round decimals, so that each number's side of each edge is exact.

Spacings are 1, 5, 10, 50, 100 and so on, and 0.5, 0.1, 0.05 and so on below. Each is a multiple of the one
before, so bins can be joined without the numbers. Edges are the floats that Python reads from their decimals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 256
"""Bins of a column that hold numbers, at most."""
FINEST = -14
"""The finest spacing, 1e-7."""
_MOST_PLACES = 2.0**50
"""Bins on either side of zero: so many can be told apart by a float."""
_MOST_ROUND_PLACES = 100
"""Bins in which the span of most numbers is divided, at most, for stops that people would write."""
MISSING, FAILED, NULL = (np.iinfo(np.int64).min + code for code in range(3))
"""Codes of what is not measured, was measured with an error, and was measured without this number."""


def edges(places: NDArray[np.int64], spacing: int) -> NDArray[np.float64]:
    """Where the bins at places [N] begin: float64 [N]."""
    numerator, denominator = _fraction(spacing)
    return np.asarray(places * numerator / denominator, np.float64)


def places_of(values: NDArray[np.float64], spacing: int) -> NDArray[np.int64]:
    """The bin of each value [N]: the last one whose edge is not above it."""
    numerator, denominator = _fraction(spacing)
    found = np.floor(values * denominator / numerator).astype(np.int64)
    found -= edges(found, spacing) > values
    found += edges(found + 1, spacing) <= values
    return found


def positions(values: NDArray[np.float64], stops: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where values [N] stand among sorted stops: `2 i + 1` at stop `i`, `2 i` between `i - 1` and `i`."""
    return np.searchsorted(stops, values, "left") + np.searchsorted(stops, values, "right")


def _fraction(spacing: int) -> tuple[float, float]:
    """A spacing as the quotient of two whole numbers."""
    tens, half = divmod(spacing, 2)
    return float((5 if half else 1) * 10 ** max(tens, 0)), float(10 ** max(-tens, 0))


def _ratio(spacing: int) -> int:
    """How many bins of this spacing make one of the next."""
    return 2 if spacing % 2 else 5


def _joined(places: NDArray[np.int64], spacing: int, coarser: int) -> NDArray[np.int64]:
    """The bins of a coarser spacing that hold these."""
    for level in range(spacing, coarser):
        places = places // _ratio(level)
    return places


@dataclass
class Grid:
    """The bins of one column, which join when more of them hold numbers than are allowed.

    Neither the order of the numbers nor how they came in parts makes any difference.

    Attributes:
        bounds: The present thresholds, sorted, each once. Every number's side of them is kept.
        occupied: int64 [B], sorted: the bins that hold numbers.
        spacing: The width of a bin.
    """

    bounds: NDArray[np.float64]
    occupied: NDArray[np.int64]
    spacing: int = FINEST

    @staticmethod
    def around(bounds: Iterable[float]) -> Grid:
        """A grid without numbers."""
        return Grid(np.unique(np.array([*bounds], np.float64)), np.zeros(0, np.int64))

    def cover(self, values: NDArray[np.float64]) -> None:
        """Make the grid coarse enough for these numbers, too."""
        spacing = self.spacing
        most = float(np.abs(values).max(initial=0.0))
        while most * np.divide(*_fraction(spacing)[::-1]) > _MOST_PLACES:
            spacing += 1
        self._hold(places_of(values, spacing), spacing)

    def merge(self, other: Grid) -> None:
        """Make the grid coarse enough for another one's numbers, too."""
        spacing = max(self.spacing, other.spacing)
        self._hold(_joined(other.occupied, other.spacing, spacing), spacing)

    def coarsen(self) -> None:
        """Join bins once."""
        self._hold(np.zeros(0, np.int64), self.spacing + 1)

    def _hold(self, places: NDArray[np.int64], spacing: int) -> None:
        places = np.union1d(places, _joined(self.occupied, self.spacing, spacing))
        while len(places) > MAX_BINS:
            places = np.unique(_joined(places, spacing, spacing + 1))
            spacing += 1
        self.occupied, self.spacing = places, spacing

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """A code per number [N]: its bin, whether it is on the bin's edge, and its side of each bound."""
        places = places_of(values, self.spacing)
        inside = edges(places, self.spacing) < values
        return (2 * places + inside) * self._sides + positions(values, self.bounds)

    def recode(self, codes: NDArray[np.int64], spacing: int) -> NDArray[np.int64]:
        """Codes [N] of a finer spacing as codes of this one."""
        if spacing == self.spacing:
            return codes
        bins, sides = np.divmod(codes, self._sides)
        places, inside = bins // 2, bins % 2 == 1
        coarse = _joined(places, spacing, self.spacing)
        inside |= edges(coarse, self.spacing) < edges(places, spacing)
        return np.where(codes <= NULL, codes, (2 * coarse + inside) * self._sides + sides)

    def typical(self, codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """A number [N] that has each of these codes; NaN for codes without a number."""
        bins, sides = np.divmod(codes, self._sides)
        places = bins // 2
        padded = np.array([-np.inf, *self.bounds, np.inf])
        low = np.maximum(edges(places, self.spacing), padded[sides // 2])
        high = np.minimum(edges(places + 1, self.spacing), padded[sides // 2 + 1])
        found = np.where(bins % 2 == 1, (low + high) / 2, edges(places, self.spacing))
        found = np.where(sides % 2 == 1, padded[(sides + 1) // 2], found)
        return np.where(codes <= NULL, np.nan, found)

    def stops(self, span: float = 0.0) -> NDArray[np.float64]:
        """Where a threshold can stand exactly and makes a difference: [S], sorted.

        Of a span of numbers so wide, edges are left out that need more than three digits to tell them apart.
        """
        spacing = self.spacing
        while span / edges(np.array([1]), spacing)[0] > _MOST_ROUND_PLACES:
            spacing += 1
        places = _joined(self.occupied, self.spacing, spacing)
        around = np.union1d(places, places + 1)
        return np.union1d(edges(around, spacing), self.bounds)

    @property
    def _sides(self) -> int:
        """How many places there are among the bounds."""
        return 2 * len(self.bounds) + 1
