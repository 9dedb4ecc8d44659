"""The numbers that matter, for the top of the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curation.records import Outcome
from curation.registry import READ_MANIFEST, load
from curation.report.page.facts import Facts
from curation.report.page.html import number, percent


@dataclass(frozen=True)
class Headline:
    """One number of the headline: what it counts, the number, and what it is part of."""

    label: str
    value: str
    note: str
    tone: str = ""


def headlines(facts: Facts) -> list[Headline]:
    """Kept, by kind; waiting, where something is; failed; tokens and shards."""
    samples = facts.summary.samples
    found = [
        Headline(
            f"{kind}s kept",
            number(counts[Outcome.KEPT]),
            f"of {number(counts.total())}, {percent(counts[Outcome.KEPT], counts.total())}",
            "kept",
        )
        for kind, counts in samples.items()
        if counts.total()
    ]
    pending = sum(counts[Outcome.PENDING] for counts in samples.values())
    if pending:
        found.append(Headline("waiting", number(pending), "samples not measured to the end", "pending"))
    sources = facts.summary.sources
    failed = sum(counts[Outcome.FAILED] for counts in sources.values())
    total = sum(counts.total() for counts in sources.values())
    tone = "failed" if failed else ""
    found.append(Headline("sources failed", number(failed), f"of {number(total)}", tone))
    manifest = manifest_of(facts)
    if manifest is not None:
        shards = len(manifest.shards)
        note = f"in {number(shards)} shard{'' if shards == 1 else 's'}"
        found.append(Headline("tokens", _rounded(manifest.num_tokens), note))
    return found


def manifest_of(facts: Facts) -> Any:
    """The manifest of the finished shards; None before there are any.

    Raises:
        DamagedFileError: it is none.
    """
    return load(READ_MANIFEST)(facts.ledger.storage, facts.pipeline.config.shards_folder)


def _rounded(count: int) -> str:
    """A large count in three digits: 34,920 stays, 1.23 million."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return number(count)
