"""Which samples a report shows."""

from __future__ import annotations

from dataclasses import dataclass

from curation.records import Sample


@dataclass(frozen=True)
class LocatedSample:
    """A sample, and the unit that its rows are in."""

    unit: int
    sample: Sample
