"""Failures: which files, at which step, why."""

from __future__ import annotations

from typing import Any

from curation.report.page.facts import Facts


def fill(facts: Facts) -> dict[str, Any] | None:
    """The first failures; None where nothing failed."""
    summary = facts.summary
    if not summary.failures:
        return None
    return {"failures": summary.failures, "num_failures": summary.num_failures}
