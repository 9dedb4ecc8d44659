"""The report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pyarrow as pa

from curation.ingest.leftovers import some_names
from curation.ledger import Ledger
from curation.ledger.columns import OUTCOMES
from curation.ledger.unit_state import SampleVerdict, SourceVerdict, load_unit, source_verdict
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, describe_rule
from curation.report.page.html import html_environment
from curation.report.page.tokens import look_at_shards
from curation.report.summary.funnel import untrained_notice
from curation.report.summary.histogram import Histogram
from curation.report.summary.summary import MAX_SHOWN, Summary

NUM_BARS = 24
_THUMBNAIL = "thumbnail"
"""The column of a step that makes small pictures."""


@dataclass(frozen=True)
class Plot:
    """Bar heights in percent of the highest, and where the thresholds stand, in percent of the width."""

    step: str
    column: str
    low: float
    high: float
    bars: list[tuple[float, int]]
    thresholds: list[tuple[str, float, float]]


@dataclass(frozen=True)
class Card:
    """One sample to look at."""

    title: str
    outcome: str
    reason: str
    thumbnail: str | None
    caption: str
    numbers: list[tuple[str, str]]


def render_page(ledger: Ledger, pipeline: Pipeline, summary: Summary, run: dict[str, Any]) -> str:
    """The page. Everything that comes from data is escaped."""
    page = files("curation.report.page").joinpath("page.html.j2").read_text("utf-8")
    template = html_environment().from_string(page)
    steps = {step.key: step for step in pipeline.steps()}
    return template.render(
        name=pipeline.config.general.name,
        notice=untrained_notice(pipeline),
        totals=summary.outcome_totals(),
        gone={f"{kind} sources": number for kind, number in summary.gone.items()},
        left_out=_left_out(summary, run),
        outcomes=[outcome.value for outcome in OUTCOMES],
        branches=[(f"{kind}s", describe_rule(branch.rule)) for kind, branch in pipeline.branches.items()],
        steps=[(key, summary.steps[key], _thresholds(step)) for key, step in steps.items()],
        kept_by=summary.kept_by,
        widest=max((counts.measured for counts in summary.steps.values()), default=0) or 1,
        failures=summary.failures,
        num_failures=summary.num_failures,
        histograms=[
            _plot(steps[key], column, histogram)
            for key, counts in summary.steps.items()
            for column, histogram in counts.histograms.items()
        ],
        cards=_cards(ledger, pipeline, summary),
        shards=look_at_shards(ledger, pipeline),
        models=pipeline.models,
        run=run,
    )


def _left_out(summary: Summary, run: dict[str, Any]) -> list[str]:
    """What the inputs hold that is no source, and the sources that they hold no longer."""
    lines: list[str] = (run["listing"] or {}).get("lines", [])
    if summary.gone:
        lines = [*lines, f"gone from the inputs: {some_names(summary.gone_examples, summary.gone.total())}"]
    return lines


def _thresholds(step: Step) -> list[str]:
    found = []
    for name, mark in step.stage.thresholds().items():
        value = getattr(step.stage.config, name)
        if value is not None:
            found.append(f"{mark.column} {mark.sign} {value:g}")
    return found


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


def _cards(ledger: Ledger, pipeline: Pipeline, summary: Summary) -> list[Card]:
    """The first samples of every outcome, in turn, until the page is full. Only their units are read."""
    share = MAX_SHOWN // max(len(summary.examples), 1)
    shown = [example for outcome in OUTCOMES for example in summary.examples.get(outcome, [])[:share]]
    wanted: dict[int, dict[str, set[str]]] = {}
    for example in shown:
        wanted.setdefault(example.unit, {}).setdefault(example.source_id, set()).add(example.sample_id)
    columns = _shown_columns(pipeline)
    cards = {
        sample_id: card
        for unit, ids in wanted.items()
        for sample_id, card in _unit_cards(ledger, pipeline, unit, ids, columns)
    }
    return [cards[example.sample_id] for example in shown]


def _unit_cards(
    ledger: Ledger,
    pipeline: Pipeline,
    unit: int,
    wanted: Mapping[str, Collection[str]],
    columns: Collection[str],
) -> Iterator[tuple[str, Card]]:
    """The wanted samples of one unit, `wanted` by source, with their cards."""
    state = load_unit(ledger, pipeline, unit)
    pictures = _thumbnails(ledger, pipeline, unit)
    for source in state.sources:
        if source.source_id not in wanted:
            continue
        judged = source_verdict(pipeline, state, source)
        for sample in judged.samples:
            for leaf in sample.leaves():
                if leaf.sample.sample_id in wanted[source.source_id]:
                    yield leaf.sample.sample_id, _card(judged, sample, leaf, pictures, columns)


def _thumbnails(ledger: Ledger, pipeline: Pipeline, unit: int) -> dict[str, bytes]:
    """Sample id -> a small picture of it, where a step makes some."""
    found: dict[str, bytes] = {}
    for step in pipeline.steps():
        if _THUMBNAIL in step.stage.columns:
            rows = ledger.columns(step.name, step.fingerprint, unit, [_THUMBNAIL])
            if rows is not None:
                found.update(
                    zip(*(rows[name].to_pylist() for name in ("sample_id", _THUMBNAIL)), strict=True)
                )
    return found


def _card(
    source: SourceVerdict,
    sample: SampleVerdict,
    leaf: SampleVerdict,
    pictures: dict[str, bytes],
    shown: Collection[str],
) -> Card:
    picture = pictures.get(sample.sample.sample_id)
    numbers = {}
    caption = ""
    for row in (*sample.rows.values(), *leaf.rows.values()):
        caption = row.values.get("caption", caption)
        numbers.update(
            {key: _number(value) for key, value in row.values.items() if key in shown and value is not None}
        )
    when = "" if leaf.sample.kind == "image" else f" {leaf.sample.start_s:.2f}-{leaf.sample.end_s:.2f} s"
    return Card(
        title=f"{source.source.uri.rpartition('/')[2]}{when}",
        outcome=leaf.verdict.outcome.value,
        reason=leaf.verdict.reason or "",
        thumbnail=base64.b64encode(picture).decode() if picture else None,
        caption=caption,
        numbers=list(numbers.items()),
    )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _shown_columns(pipeline: Pipeline) -> frozenset[str]:
    """The numbers that a card shows: what shards hold, and what thresholds look at."""
    return frozenset(
        name
        for step in pipeline.steps()
        for name, column in step.stage.columns.items()
        if (column.exported or name in {mark.column for mark in step.stage.thresholds().values()})
        and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
    )
