"""Scores and thresholds: a histogram of every column that decides, and sliders that recompute the yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curation.ledger.columns import OUTCOMES
from curation.pipeline import Pipeline
from curation.records import SourceKind
from curation.report.joint.joint import Joint
from curation.report.page.facts import Facts
from curation.report.page.steering import SAMPLES_OF, Slider, sliders_of, steering_data
from curation.report.page.vega import histogram_chart, in_script
from curation.report.summary.histogram import Histogram
from curation.report.summary.summary import Summary


@dataclass(frozen=True)
class ScorePlot:
    """A column: its histogram as a chart, and the sliders of its thresholds.

    Attributes:
        chart_id: Of the script element that holds the chart; unique in the page.
        chart: The chart as JSON; None where no sample comes to the step as the thresholds stand.
    """

    step: str
    column: str
    meaning: str
    num_values: int
    chart_id: str
    chart: str | None
    sliders: list[Slider]


@dataclass(frozen=True)
class SteeringPanel:
    """What can be steered of one kind of source."""

    kind: SourceKind
    samples: str
    steps: list[str]
    plots: list[ScorePlot]


def fill(facts: Facts) -> dict[str, Any] | None:
    """A panel per kind of source; None where nothing was measured."""
    summary, pipeline = facts.summary, facts.pipeline
    panels = [_panel(pipeline, summary, kind, joint) for kind, joint in summary.joints.items()]
    panels = [panel for panel in panels if panel.plots]
    if not panels:
        return None
    shown = {panel.kind: summary.joints[panel.kind] for panel in panels}
    return {
        "panels": panels,
        "outcomes": [outcome.value for outcome in OUTCOMES],
        "data": in_script(steering_data(pipeline, shown)),
    }


def _panel(pipeline: Pipeline, summary: Summary, kind: SourceKind, joint: Joint) -> SteeringPanel:
    sliders = sliders_of(pipeline, kind, joint)
    plots = []
    for place, column in enumerate(joint.columns):
        histogram = summary.steps[column.step].histograms.get(column.column or "")
        mine = [one for one in sliders if (one.step, one.column) == (column.step, column.column)]
        if histogram is not None or mine:
            plots.append(
                _plot(pipeline, column.step, column.column or "", histogram, mine, f"{kind}-{place}")
            )
    steps = [*dict.fromkeys(column.step for column in joint.columns), *joint.enrich]
    return SteeringPanel(kind, SAMPLES_OF[kind], steps, plots)


def _plot(
    pipeline: Pipeline,
    key: str,
    column: str,
    histogram: Histogram | None,
    sliders: list[Slider],
    chart_id: str,
) -> ScorePlot:
    step = pipeline.step_of(key)
    meaning = step.stage.columns[column].meaning if step else ""
    limits = {one.signal: one.value for one in sliders}
    chart = in_script(histogram_chart(column, histogram, limits)) if histogram else None
    return ScorePlot(key, column, meaning, histogram.total if histogram else 0, chart_id, chart, sliders)
