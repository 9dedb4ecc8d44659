"""Models and versions."""

from __future__ import annotations

from typing import Any

from curation.report.page.facts import Facts


def fill(facts: Facts) -> dict[str, Any]:
    """Models with their revisions, and the version of this package."""
    return {"models": facts.pipeline.models, "version": facts.run["curation"]}
