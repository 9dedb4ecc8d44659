"""What the sections of a report are filled from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.report.gallery.album import Album, album_of
from curation.report.summary.summary import Summary


@dataclass(frozen=True)
class Facts:
    """What every section may use.

    Attributes:
        ledger: What was measured.
        pipeline: The rules.
        summary: Counts over all sources and samples.
        run: What run.json says.
    """

    ledger: Ledger
    pipeline: Pipeline
    summary: Summary
    run: dict[str, Any]

    @cached_property
    def album(self) -> Album:
        """The samples that the page shows; of each, the section that comes first holds the pictures."""
        return album_of(self.ledger, self.pipeline, self.summary.gallery)
