"""Changes: what differs from the run before."""

from __future__ import annotations

from typing import Any

from curation.report.page.facts import Facts


def fill(_facts: Facts) -> dict[str, Any] | None:
    """Nothing: run.json does not have the run before."""
    return None
