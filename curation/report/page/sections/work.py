"""The last work: rows, time and throughput of each stage and kind of worker."""

from __future__ import annotations

from typing import Any

from curation.report.page.facts import Facts


def fill(facts: Facts) -> dict[str, Any] | None:
    """What the last run that measured something did; None before the first one."""
    work = facts.run["last_work"]
    return {"work": work} if work else None
