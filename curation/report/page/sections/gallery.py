"""Samples to look at: the first ones of every outcome."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation.ledger import Ledger
from curation.ledger.columns import OUTCOMES
from curation.ledger.unit_state import SampleVerdict, SourceVerdict, load_unit, source_verdict
from curation.pipeline import Pipeline
from curation.report.page.facts import Facts
from curation.report.summary.summary import MAX_SHOWN, Summary

_THUMBNAIL = "thumbnail"
"""The column of a step that makes small pictures."""


@dataclass(frozen=True)
class Card:
    """One sample to look at."""

    title: str
    outcome: str
    reason: str
    thumbnail: str | None
    caption: str
    numbers: list[tuple[str, str]]


def fill(facts: Facts) -> dict[str, Any] | None:
    """A card per sample; None where there are no samples."""
    cards = _cards(facts.ledger, facts.pipeline, facts.summary)
    return {"cards": cards} if cards else None


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
