"""Tokens: the use of the codebook, and samples decoded beside their originals."""

from __future__ import annotations

from typing import Any

from curation.report.page.facts import Facts
from curation.report.page.tokens import look_at_shards


def fill(facts: Facts) -> dict[str, Any] | None:
    """What the shards hold; None before there are shards."""
    shards = look_at_shards(facts.ledger, facts.pipeline)
    return {"shards": shards} if shards else None
