"""Captions and whatever else stages count over their rows."""

from __future__ import annotations

from typing import Any

from curation.report.page.facts import Facts


def fill(facts: Facts) -> dict[str, Any] | None:
    """Step -> group -> name -> number."""
    counted = [(key, counts.counts) for key, counts in facts.summary.steps.items() if counts.counts]
    return {"steps": counted} if counted else None
