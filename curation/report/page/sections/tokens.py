"""Tokens: how many of each kind, the use of the codebook, and samples decoded beside their originals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from curation.report.page.facts import Facts
from curation.report.page.tokens import ShardLook, look_at_shards

MAX_LISTED = 50
"""Shards that the page lists."""


def fill(facts: Facts) -> dict[str, Any] | None:
    """What the shards hold; None before there are shards."""
    shards = look_at_shards(facts.ledger, facts.pipeline)
    if not shards:
        return None
    kinds = _kinds(shards)
    fractions = sorted(shard.use["used_fraction"] for shard in shards if shard.use)
    return {
        "kinds": kinds,
        "num_tokens": sum(counts["tokens"] for counts in kinds.values()),
        "used": (fractions[0], fractions[-1]) if fractions else None,
        "shards": shards,
        "listed": shards[:MAX_LISTED],
        "looks": [look for shard in shards for look in shard.samples],
    }


def _kinds(shards: Sequence[ShardLook]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for shard in shards:
        for kind, counts in shard.kinds.items():
            found.setdefault(kind, Counter()).update(counts)
    return dict(sorted(found.items()))
