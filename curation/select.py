"""What goes into the shards: every kept leaf, with the columns that the ledger has for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from curation.decide import Step
from curation.judge import JudgedSample, JudgedSource, walk
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.records import Outcome

SCORES = ("aesthetic_score", "text_coverage", "flow_score")


@dataclass(frozen=True)
class Kept:
    """A sample for a shard: everything but its codes, which are read when it is written.

    Attributes:
        columns: Values of the shard columns that the ledger knows.
        measured_by: Fingerprints of its caption and tokens.
    """

    sample_id: str
    unit: int
    columns: dict[str, Any] = field(compare=False)
    measured_by: tuple[str, ...]


def select(ledger: Ledger, pipeline: Pipeline) -> Iterator[Kept]:
    """Every sample that is kept, captioned and tokenized."""
    captions, tokens = pipeline.step_of("captions"), pipeline.step_of("tokens")
    if captions is None or tokens is None:
        return
    for state, judged in walk(ledger, pipeline):
        for source in judged:
            for sample in source.samples:
                for leaf in sample.leaves():
                    if leaf.verdict.outcome is Outcome.KEPT:
                        yield _kept(pipeline, state.unit, source, sample, leaf, (captions, tokens))


def _kept(
    pipeline: Pipeline,
    unit: int,
    source: JudgedSource,
    sample: JudgedSample,
    leaf: JudgedSample,
    ends: tuple[Step, Step],
) -> Kept:
    captions, tokens = ends
    caption, grid = leaf.rows[captions.key].values, leaf.rows[tokens.key].values
    scores: dict[str, Any] = {}
    for row in sample.rows.values():
        scores.update({name: row.values[name] for name in SCORES if name in row.values})
    tokenizer = next(model for model in pipeline.models if model.step == tokens.key)
    is_clip = leaf.sample.kind == "clip"
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
        "license": pipeline.config.general.license,
    }
    return Kept(leaf.sample.sample_id, unit, columns, (captions.fingerprint, tokens.fingerprint))
