"""Failures by type of error, each with examples."""

from __future__ import annotations

from typing import Any

from curation.report.page.facts import Facts

MAX_TYPES = 30
"""Types of error that the page shows."""


def fill(facts: Facts) -> dict[str, Any] | None:
    """Types of error, the commonest first, and the first failures of all; None where nothing failed."""
    summary = facts.summary
    if not summary.failures:
        return None
    types = [
        {
            "name": name or "unknown",
            "number": number,
            "examples": summary.failed_examples[name],
            "cards": facts.album.cards(summary.gallery.errors.get(name, [])),
        }
        for name, number in summary.failed_by.most_common(MAX_TYPES)
    ]
    return {
        "types": types,
        "num_types": len(summary.failed_by),
        "failures": summary.failures,
        "num_failures": summary.num_failures,
    }
