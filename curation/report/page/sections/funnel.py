"""The funnel: how sources and samples end, step by step."""

from __future__ import annotations

from typing import Any

from curation.ledger.columns import OUTCOMES
from curation.pipeline.rules import Step
from curation.report.page.facts import Facts


def fill(facts: Facts) -> dict[str, Any]:
    """Outcomes, steps and branches."""
    summary = facts.summary
    steps = {step.key: step for step in facts.pipeline.steps()}
    return {
        "totals": summary.outcome_totals(),
        "gone": {f"{kind} sources": number for kind, number in summary.gone.items()},
        "outcomes": [outcome.value for outcome in OUTCOMES],
        "steps": [(key, summary.steps[key], _thresholds(step)) for key, step in steps.items()],
        "kept_by": summary.kept_by,
        "widest": max((counts.measured for counts in summary.steps.values()), default=0) or 1,
    }


def _thresholds(step: Step) -> list[str]:
    found = []
    for name, mark in step.stage.thresholds().items():
        value = getattr(step.stage.config, name)
        if value is not None:
            found.append(f"{mark.column} {mark.sign} {value:g}")
    return found
