"""The funnel: how sources and samples end, step by step, and what is in the shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curation.ledger.columns import OUTCOMES
from curation.pipeline.rules import Step
from curation.records import Outcome
from curation.report.page.facts import Facts
from curation.report.page.headline import manifest_of
from curation.report.page.vega import funnel_chart, in_script

COLORS = {
    Outcome.KEPT: "#2b6cb0",
    Outcome.REJECTED: "#e0a030",
    Outcome.FAILED: "#a3195b",
    Outcome.PENDING: "#8793a0",
}
"""Told apart by people who see no red or no green, and in black and white by their lightness."""


def fill(facts: Facts) -> dict[str, Any]:
    """Outcomes, steps and branches."""
    summary, manifest = facts.summary, manifest_of(facts)
    steps = {step.key: step for step in facts.pipeline.steps()}
    rows = [row for row in _chart_rows(facts) if row["number"]]
    return {
        "totals": summary.outcome_totals(),
        "gone": {f"{kind} sources": number for kind, number in summary.gone.items()},
        "outcomes": [outcome.value for outcome in OUTCOMES],
        "steps": [(key, summary.steps[key], _thresholds(step)) for key, step in steps.items()],
        "in_shards": None if manifest is None else manifest.num_samples,
        "kept_by": summary.kept_by,
        "chart": in_script(funnel_chart(rows, {outcome.value: color for outcome, color in COLORS.items()})),
    }


def _chart_rows(facts: Facts) -> Iterator[dict[str, Any]]:
    """Sources, samples, what each step says, and what is in the shards."""
    summary = facts.summary
    for kind, counts in summary.outcome_totals().items():
        for outcome in OUTCOMES:
            yield {"step": kind, "outcome": outcome.value, "number": counts[outcome.value]}
    for key in dict.fromkeys(step.key for step in facts.pipeline.steps()):
        for outcome in OUTCOMES:
            number = summary.steps[key].outcomes[outcome]
            yield {"step": key, "outcome": outcome.value, "number": number}
    manifest = manifest_of(facts)
    if manifest is not None:
        yield {"step": "in shards", "outcome": Outcome.KEPT.value, "number": manifest.num_samples}


def _thresholds(step: Step) -> list[str]:
    found = []
    for name, mark in step.stage.thresholds().items():
        value = getattr(step.stage.config, name)
        if value is not None:
            found.append(f"{mark.column} {mark.sign} {value:g}")
    return found
