"""What goes into the shards: every kept leaf, with the columns that the ledger has for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from curation.ingest.metadata import drawn_text, texts_of
from curation.ledger import Ledger
from curation.ledger.present import absent_sources
from curation.ledger.unit_state import (
    SampleVerdict,
    SourceVerdict,
    load_unit,
    measured_units,
    present_verdicts,
)
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import MetadataValue, Outcome

SCORES = ("aesthetic_score", "text_coverage", "flow_score")
LICENSE_NAMES = ("license", "licence")
ALT_TEXT_NAMES = ("alt_text", "alt", "caption", "text", "txt")
"""What others call the license and the text of a source; the first that a source carries counts. Of several
texts under that name one is drawn; all licenses are named."""


@dataclass(frozen=True)
class Kept:
    """A sample for a shard: everything but its codes, which are read when it is written.

    Attributes:
        columns: Values of the shard columns that the ledger knows.
        measured_by: Fingerprints of its caption and tokens.
    """

    sample_id: str
    columns: dict[str, Any] = field(compare=False)
    measured_by: tuple[str, ...]


class Selection:
    """The samples that are kept, captioned and tokenized, unit by unit."""

    def __init__(self, ledger: Ledger, pipeline: Pipeline) -> None:
        self._ledger, self._pipeline = ledger, pipeline
        self._ends = pipeline.step_of("captions"), pipeline.step_of("tokens")
        self._measured = measured_units(ledger, pipeline)
        self._absent = absent_sources(ledger)

    def units(self) -> list[int]:
        """The units, in order."""
        return self._ledger.units()

    def kept(self, unit: int) -> Iterator[Kept]:
        """The samples of a unit."""
        captions, tokens = self._ends
        if captions is None or tokens is None:
            return
        state = load_unit(self._ledger, self._pipeline, unit, measured=self._measured)
        for source in present_verdicts(state, self._pipeline, self._absent)[1]:
            for sample in source.samples:
                for leaf in sample.leaves():
                    if leaf.verdict.outcome is Outcome.KEPT:
                        yield _kept(self._pipeline, source, sample, leaf, (captions, tokens))

    def codes(self, unit: int) -> Mapping[str, bytes]:
        """sample_id -> codes of a unit's samples."""
        _, tokens = self._ends
        if tokens is None:
            return {}
        rows = self._ledger.rows(tokens.name, tokens.fingerprint, unit)
        return {row.sample_id: row.values["codes"] for row in rows if row.ok}


def _kept(
    pipeline: Pipeline,
    source: SourceVerdict,
    sample: SampleVerdict,
    leaf: SampleVerdict,
    ends: tuple[Step, Step],
) -> Kept:
    captions, tokens = ends
    caption, grid = leaf.rows[captions.key].values, leaf.rows[tokens.key].values
    scores: dict[str, Any] = {}
    for row in sample.rows.values():
        scores.update({name: row.values[name] for name in SCORES if name in row.values})
    tokenizer = next(model for model in pipeline.models if model.step == tokens.key)
    is_clip = leaf.sample.kind == "clip"
    metadata = source.source.metadata
    columns = {
        "source_id": source.source.source_id,
        "source_uri": source.source.uri,
        "kind": leaf.sample.kind,
        "start_s": leaf.sample.start_s if is_clip else None,
        "end_s": leaf.sample.end_s if is_clip else None,
        "caption": caption["caption"],
        "caption_model": caption["model"],
        **{name: grid[name] for name in ("grid_t", "grid_h", "grid_w", "fps")},
        **{name: scores.get(name) for name in SCORES},
        "tokenizer": f"{tokenizer.name}@{tokenizer.revision}",
        "license": "; ".join(metadata_texts(metadata, LICENSE_NAMES)) or pipeline.config.general.license,
        "alt_text": drawn_text(metadata_texts(metadata, ALT_TEXT_NAMES), leaf.sample.sample_id),
    }
    return Kept(leaf.sample.sample_id, columns, (captions.fingerprint, tokens.fingerprint))


def metadata_texts(metadata: Mapping[str, MetadataValue], names: tuple[str, ...]) -> list[str]:
    """The texts that a source carries under the first of these names that it has, in any case."""
    known = {name.lower(): texts_of(value) for name, value in metadata.items()}
    found = (known.get(name, []) for name in names)
    return next((texts for texts in found if any(texts)), [])
