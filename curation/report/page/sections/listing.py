"""The listing: what the inputs hold that is no source, and the sources that they hold no longer."""

from __future__ import annotations

from typing import Any

from curation.ingest.leftovers import some_names
from curation.ingest.tombstones import read_tombstones
from curation.report.page.facts import Facts


def fill(facts: Facts) -> dict[str, Any] | None:
    """A line per thing worth saying."""
    summary = facts.summary
    lines: list[str] = (facts.run["listing"] or {}).get("lines", [])
    if summary.gone:
        lines = [*lines, f"gone from the inputs: {some_names(summary.gone_examples, summary.gone.total())}"]
    num_retracted = read_tombstones(facts.ledger.storage).num_sources
    if num_retracted:
        lines = [*lines, f"retracted: {num_retracted} sources"]
    return {"lines": lines} if lines else None
