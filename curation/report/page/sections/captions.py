"""Captions: how long, what the gate said, phrases that repeat, examples; and what else stages count."""

from __future__ import annotations

from typing import Any

import numpy as np

from curation.report.page.captions import CaptionLook, look_at_captions
from curation.report.page.facts import Facts
from curation.report.page.vega import histogram_chart, in_script
from curation.report.summary.histogram import Histogram

MAX_EXAMPLES = 6
"""Captions that are shown in full."""


def fill(facts: Facts) -> dict[str, Any] | None:
    """Counts of stages, and a look at the texts; None where nothing is counted."""
    counted = [(key, counts.counts) for key, counts in facts.summary.steps.items() if counts.counts]
    if not counted:
        return None
    look = look_at_captions(facts.ledger, facts.pipeline)
    with_captions = [one for one in facts.album.known.values() if one.caption]
    return {
        "steps": counted,
        "look": look,
        "chart": in_script(_chart(look)) if look else None,
        "median": float(np.median(look.lengths)) if look else None,
        "examples": [
            (one, len(facts.album.pictures[one.sample.sample_id])) for one in with_captions[:MAX_EXAMPLES]
        ],
    }


def _chart(look: CaptionLook) -> dict[str, Any]:
    histogram = Histogram()
    histogram.add(look.lengths.astype(np.float64))
    return histogram_chart("words", histogram, {}, whole=True)
