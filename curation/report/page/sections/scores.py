"""Scores: a histogram of every column that a threshold looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curation.pipeline.rules import Step
from curation.report.page.facts import Facts
from curation.report.summary.histogram import Histogram

NUM_BARS = 24


@dataclass(frozen=True)
class Plot:
    """Bar heights in percent of the highest, and where the thresholds stand, in percent of the width."""

    step: str
    column: str
    low: float
    high: float
    bars: list[tuple[float, int]]
    thresholds: list[tuple[str, float, float]]


def fill(facts: Facts) -> dict[str, Any] | None:
    """A plot per column; None where nothing was measured."""
    steps = {step.key: step for step in facts.pipeline.steps()}
    plots = [
        _plot(steps[key], column, histogram)
        for key, counts in facts.summary.steps.items()
        for column, histogram in counts.histograms.items()
    ]
    return {"histograms": plots} if plots else None


def _plot(step: Step, column: str, histogram: Histogram) -> Plot:
    limits = {
        name: getattr(step.stage.config, name)
        for name, mark in step.stage.thresholds().items()
        if mark.column == column and getattr(step.stage.config, name) is not None
    }
    low = min([histogram.low, *limits.values()])
    high = max([histogram.high, *limits.values()])
    width = (high - low) or 1.0
    counts = histogram.bars(NUM_BARS, low, low + width)
    top = max(int(counts.max()), 1)
    marks = [(name, value, 100 * (value - low) / width) for name, value in limits.items()]
    return Plot(step.key, column, low, low + width, [(100 * int(n) / top, int(n)) for n in counts], marks)
