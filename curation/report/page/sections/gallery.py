"""Samples to look at: those nearest each threshold, then some of every outcome."""

from __future__ import annotations

from typing import Any

from curation.report.page.facts import Facts


def fill(facts: Facts) -> dict[str, Any] | None:
    """Rows of cards, and a dialog for each sample that the page shows; None where there are no samples."""
    gallery, album = facts.summary.gallery, facts.album
    if not album.known:
        return None
    return {
        "borders": [album.border(border) for border in gallery.borders],
        "outcomes": [
            (f"{kind}s", outcome.value, album.cards(found))
            for (kind, outcome), found in gallery.outcomes.items()
        ],
        "dialogs": list(album.known.values()),
        "num_pictures": {sample_id: len(found) for sample_id, found in album.pictures.items()},
    }
