"""Verdicts as the scalar judge gives them, unit by unit: what everything that works by column must equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from curation.ledger import Ledger
from curation.ledger.absent import absent_sources
from curation.ledger.unit_state import (
    NO_RECOMPUTE,
    RecomputePolicy,
    SourceVerdict,
    UnitState,
    load_unit,
    unit_verdicts,
)
from curation.pipeline import Pipeline
from curation.records import Source


@dataclass
class Unit(UnitState):
    """A unit whose sources are those in the inputs."""

    gone: list[Source] = field(default_factory=list)
    """Those that are no longer there."""


def scan_verdicts(
    ledger: Ledger, pipeline: Pipeline, recompute: RecomputePolicy = NO_RECOMPUTE
) -> Iterator[tuple[Unit, list[SourceVerdict]]]:
    """Every unit without its absent sources, and its verdicts."""
    absent = absent_sources(ledger)
    for unit in ledger.units():
        state = load_unit(ledger, pipeline, unit, recompute=recompute)
        present = [source for source in state.sources if source.source_id not in absent]
        gone = [source for source in state.sources if source.source_id in absent.gone]
        found = Unit(unit, present, state.rows, gone=gone)
        yield found, unit_verdicts(pipeline, found)
