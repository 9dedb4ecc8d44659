"""Rows that were made of what came along with a source, once that is another thing.

Not only those of the configuration that notices it: the rows of every other one in the ledger would
otherwise stand for what the source carried before, and nothing would tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from curation.errors import ConfigError
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.records import Sample, Source
from curation.registry import STAGES
from curation.splitter import Splitter
from curation.stage import Stage


def drop_rows_of_changed(
    pipeline: Pipeline, ledger: Ledger, unit: int, known: Sequence[Source], settled: Sequence[Source]
) -> None:
    """Take out rows of a unit's sources that carry something else in `settled` than in `known`.

    Of a stage with other settings than this pipeline's nobody can tell whether its rows depend on what came
    along, so they go if any settings of that stage do.
    """
    now = {source.source_id: source.metadata for source in settled}
    changed = [source for source in known if now.get(source.source_id, source.metadata) != source.metadata]
    readers = list(_readers(pipeline, ledger)) if changed else []
    if not readers:
        return
    samples = _samples_of(pipeline, ledger, unit, changed)
    ids = {part.sample_id for sample in samples for part in (sample, *pipeline.windows(sample))}
    for name, fingerprint in readers:
        rows = ledger.rows(name, fingerprint, unit)
        stale = {row.sample_id for row in rows if {row.sample_id, row.values.get("parent_id")} & ids}
        if stale:
            ledger.remove_rows(name, fingerprint, unit, stale)


def _readers(pipeline: Pipeline, ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Name and fingerprint of every stage whose rows may depend on what came along with their sources."""
    known = {(step.name, step.fingerprint): step.stage.reads_metadata() for step in pipeline.steps()}
    yield from (step for step, reads in known.items() if reads)
    for name, fingerprint in ledger.known_steps - known.keys():
        found = _class_of(pipeline, name)
        if found is not None and found.reads_metadata is not Stage.reads_metadata:
            yield name, fingerprint


def _samples_of(
    pipeline: Pipeline, ledger: Ledger, unit: int, sources: Collection[Source]
) -> Iterator[Sample]:
    """The images, and the clips that any splitter has found."""
    ids = {source.source_id for source in sources}
    yield from (Sample.of_image(source) for source in sources if source.kind == "image")
    own = {(step.name, step.fingerprint) for step in pipeline.steps()}
    for name, fingerprint in ledger.known_steps | own:
        found = _class_of(pipeline, name)
        if found is None or not issubclass(found, Splitter):
            continue
        for row in ledger.rows(name, fingerprint, unit):
            if row.ok and row.values["source_id"] in ids:
                span = row.values["start_s"], row.values["end_s"]
                yield Sample.of_span(row.values["source_id"], *span)


def _class_of(pipeline: Pipeline, name: str) -> type[Stage[Any]] | None:
    """The stage behind a folder of the ledger; None where it is not installed."""
    for step in pipeline.steps():
        if step.name == name:
            return type(step.stage)
    try:
        found: type[Stage[Any]] = STAGES.load(name)
    except ConfigError:
        return None
    return found
