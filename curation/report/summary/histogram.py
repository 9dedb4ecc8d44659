"""Histograms of columns too long to hold, which grow with the data and merge."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 2048
"""Bins of a histogram, at most; and more than half as many once values differ enough."""
_PRECISION_BITS = 52


@dataclass
class Histogram:
    """Counts of numbers in bins whose width is a power of two, aligned to zero.

    The width is the smallest that needs no more than `MAX_BINS` from the lowest to the highest value so
    far. Twice the width joins bins in pairs, exactly, so neither the order of the values nor how they came
    in parts makes any difference, and a page can draw two dozen bars over any range from it: what a bar
    shows is off by the values of one bin at its edges, 1/40 of the bar or less.

    Attributes:
        exponent: Base-two logarithm of a bin's width.
        start: The first bin begins at `start` widths.
        counts: int64 [B].
        low, high: The lowest and the highest value; infinite before the first one.
    """

    exponent: int = 0
    start: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in values [N]; those that are not finite are left out."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        exponent = _exponent(low, high)
        places = np.floor(np.ldexp(values, -exponent)).astype(np.int64)
        start = int(places.min())
        self.merge(Histogram(exponent, start, np.bincount(places - start), low, high))

    def merge(self, other: Histogram) -> None:
        """Take in what another histogram counted."""
        if not other.total:
            return
        low, high = min(self.low, other.low), max(self.high, other.high)
        exponent = _exponent(low, high)
        parts = [part._places(exponent) for part in (self, other) if part.total]
        start = min(int(places[0]) for places, _ in parts)
        counts = np.zeros(max(int(places[-1]) for places, _ in parts) - start + 1, np.int64)
        for places, numbers in parts:
            np.add.at(counts, places - start, numbers)
        self.exponent, self.start, self.counts, self.low, self.high = exponent, start, counts, low, high

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def bars(self, number: int, low: float, high: float) -> NDArray[np.int64]:
        """The counts in `number` bars of equal width from `low` to `high`; what lies outside is left out.

        A bin counts where its center is.
        """
        centers = np.ldexp(self.start + np.arange(len(self.counts)) + 0.5, self.exponent)
        centers = np.clip(centers, self.low, self.high)
        found, _ = np.histogram(centers, bins=number, range=(low, high), weights=self.counts)
        return found.astype(np.int64)

    def _places(self, exponent: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each bin lies among bins of a width that is no smaller, and the counts."""
        return (self.start + np.arange(len(self.counts))) >> (exponent - self.exponent), self.counts


def _exponent(low: float, high: float) -> int:
    """Of the smallest width in which `MAX_BINS` bins are enough, and numbers of bins are exact."""
    exponent = int(np.frexp(max(abs(low), abs(high)))[1]) - _PRECISION_BITS
    while np.floor(np.ldexp(high, -exponent)) - np.floor(np.ldexp(low, -exponent)) >= MAX_BINS:
        exponent += 1
    return exponent
