"""What goes into the shards: every kept leaf, by column, with what the ledger has for it.

    selection = Selection(ledger, pipeline)
    for table in selection.kept(selection.units()):
        table["sample_id"], table["caption"], table["aesthetic_score"]

It can be pickled, so that whoever writes a group of units reads them there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import ConfigError
from curation.ingest.metadata import drawn_text, texts_of
from curation.ledger import Ledger
from curation.ledger.absent import absent_sources
from curation.ledger.columns import KEPT
from curation.ledger.unit_state import branch_steps
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, steps_of
from curation.records import MetadataValue, SourceKind
from curation.stage import Column

LICENSE_NAMES = ("license", "licence")
ALT_TEXT_NAMES = ("alt_text", "alt", "caption", "text", "txt")
"""What others call the license and the text of a source; the first that a source carries counts. Of several
texts under that name one is drawn; all licenses are named."""

DOCUMENT_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "caption": {"caption": "caption", "model": "caption_model"},
    "codes": {name: name for name in ("grid_t", "grid_h", "grid_w", "fps")},
}
"""What a step produces -> its column -> what that is called in a shard, of what documents are made of."""

_OF_SOURCE = pa.schema(
    [
        ("unit", pa.int64()),
        ("sample_id", pa.string()),
        ("source_id", pa.string()),
        ("source_uri", pa.string()),
        ("carried", pa.string()),
        ("kind", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)


class Selection:
    """The samples that are kept, captioned and tokenized.

    Attributes:
        exported: The columns that stages export, beside those that documents are made of.
        made_by: What is the same for all samples, besides what they were measured as.
    """

    def __init__(self, ledger: Ledger, pipeline: Pipeline) -> None:
        self._ledger, self._pipeline = ledger, pipeline
        self._absent = absent_sources(ledger)
        producers = {product: pipeline.producer(product) for product in DOCUMENT_COLUMNS}
        self._producers = {product: step for product, step in producers.items() if step is not None}
        self.exported = exported_columns(pipeline)
        self._schema = self._fields()
        measured_by = [step.fingerprint for step in self._producers.values()]
        self.made_by = (*measured_by, self._tokenizer(), pipeline.config.general.license)

    def _fields(self) -> pa.Schema:
        of_documents = [
            (called, step.stage.columns[name].type)
            for product, step in self._producers.items()
            for name, called in DOCUMENT_COLUMNS[product].items()
        ]
        exported = [(name, column.type) for name, column in self.exported.items()]
        return pa.schema([*_OF_SOURCE, *of_documents, *exported])

    def units(self) -> list[int]:
        """The units, in order; none where nothing is captioned and tokenized."""
        return self._ledger.units() if len(self._producers) == len(DOCUMENT_COLUMNS) else []

    def kept(self, units: Iterable[int]) -> Iterator[pa.Table]:
        """The samples of these units, a few units at a time, with their `unit`."""
        besides = {step.key: list(_exported_by(step)) for step in self._pipeline.steps()}
        for product, step in self._producers.items():
            besides[step.key] += DOCUMENT_COLUMNS[product]
        groups = verdict_groups(
            self._ledger,
            self._pipeline,
            units=units,
            source_columns=("uri", "carried"),
            columns=besides,
            absent=self._absent,
        )
        for group in groups:
            yield pa.concat_tables(self._kept_of(group, kind) for kind in group.leaves)

    def described(self, table: pa.Table) -> pa.Table:
        """Samples with `tokenizer`, `license` and `alt_text` in the place of what their sources carry."""
        carried, ids = table["carried"].to_pylist(), table["sample_id"].to_pylist()
        read = {text: json.loads(text) for text in set(carried) if text}
        texts = {text: metadata_texts(metadata, ALT_TEXT_NAMES) for text, metadata in read.items()}
        alt_texts = [
            drawn_text(texts.get(text), sample_id) for text, sample_id in zip(carried, ids, strict=True)
        ]
        described = table.drop_columns(["carried"])
        described = described.append_column("tokenizer", _repeated(self._tokenizer(), table.num_rows))
        described = described.append_column("license", self.licenses(table))
        return described.append_column("alt_text", pa.array(alt_texts, pa.string()))

    def licenses(self, table: pa.Table) -> pa.Array:
        """The license of each sample of `kept`: what its source carries, or that of the whole.

        Only texts that could name one are parsed: this is asked for every sample in every run.
        """
        default = self._pipeline.config.general.license
        carried = table["carried"].combine_chunks().dictionary_encode()
        texts = carried.dictionary
        could = pc.match_substring_regex(texts, "(?i)licen[cs]e").to_pylist()
        named = [
            "; ".join(metadata_texts(json.loads(text), LICENSE_NAMES)) or default if maybe else default
            for text, maybe in zip(texts.to_pylist(), could, strict=True)
        ]
        found = pa.array([*named, default], pa.string())
        return found.take(pc.fill_null(carried.indices, len(named)))

    def codes(self, units: Iterable[int]) -> Iterator[pa.Table]:
        """`sample_id` and `codes` of whatever was tokenized in these units, a unit at a time."""
        step = self._producers["codes"]
        rows = self._ledger.snapshot(step.name, step.fingerprint)
        for _, table in rows.scan(units, ["sample_id", "status", "codes"]):
            yield table.filter(pc.equal(table["status"], "ok")).select(["sample_id", "codes"])

    def _tokenizer(self) -> str:
        step = self._producers.get("codes")
        models = (model for model in self._pipeline.models if step and model.step == step.key)
        return next((f"{model.name}@{model.revision}" for model in models), "")

    def _kept_of(self, group: VerdictGroup, kind: SourceKind) -> pa.Table:
        leaves = group.leaves[kind]
        places = np.flatnonzero(leaves.verdicts.outcome == KEPT)
        sources = group.sources.take(pa.array(leaves.source[places]))
        number, is_clip = len(places), kind == "video"
        found: dict[str, Any] = {
            "unit": sources["unit"],
            "sample_id": leaves.sample_id.take(pa.array(places)),
            "source_id": sources["source_id"],
            "source_uri": sources["uri"],
            "carried": sources["carried"],
            "kind": _repeated("clip" if is_clip else "image", number),
            "start_s": pa.array(leaves.start_s[places]) if is_clip else pa.nulls(number, pa.float64()),
            "end_s": pa.array(leaves.end_s[places]) if is_clip else pa.nulls(number, pa.float64()),
        }
        for product, step in self._producers.items():
            rows = group.rows_of(step.key, found["sample_id"])
            found |= {called: rows[name] for name, called in DOCUMENT_COLUMNS[product].items()}
        found |= self._exported_of(group, kind, places, found["sample_id"])
        return pa.table([found[field.name] for field in self._schema], schema=self._schema)

    def _exported_of(
        self, group: VerdictGroup, kind: SourceKind, places: NDArray[np.int64], leaf_id: pa.Array
    ) -> dict[str, Any]:
        """The exported columns of kept leaves: what the steps measured that the rule comes to.

        Rows that an earlier rule asked for stay in the ledger; they don't show, or two outputs of one
        configuration would differ by what was tried before.
        """
        samples, of_sample = group.samples[kind], group.leaves[kind].sample[places]
        sample_id = samples.sample_id.take(pa.array(of_sample))
        branch = samples.branch
        is_kept = np.zeros(samples.evaluator.number, np.bool_)
        is_kept[of_sample] = True
        asked = samples.evaluator.asked(branch.whole_rule, is_kept)
        found: dict[str, Any] = {
            name: pa.nulls(len(places), column.type) for name, column in self.exported.items()
        }
        for step in branch_steps(branch):
            if _exported_by(step):
                of_step = pc.if_else(pa.array(asked[step.key][of_sample]), sample_id, None)
                _take_over(found, group.rows_of(step.key, of_step), _exported_by(step))
        for step in steps_of(self._pipeline.enrich):
            _take_over(found, group.rows_of(step.key, leaf_id), _exported_by(step))
        return found


def exported_columns(pipeline: Pipeline) -> dict[str, Column]:
    """The columns that stages export, in the order of the work, but for those that documents are made of.

    Raises:
        ConfigError: two stages export different things under one name.
    """
    found: dict[str, Column] = {}
    for step in pipeline.steps():
        for name, column in _exported_by(step).items():
            if found.setdefault(name, column).type != column.type:
                raise ConfigError(
                    f"{step.key} exports {name} as {column.type}, another stage as {found[name].type}"
                )
    return found


def _exported_by(step: Step) -> dict[str, Column]:
    own = DOCUMENT_COLUMNS.get(step.stage.produces or "", {})
    columns = step.stage.columns.items()
    return {name: column for name, column in columns if column.exported and name not in own}


def _take_over(found: dict[str, Any], rows: pa.Table, names: Iterable[str]) -> None:
    """Put the values that there are in `rows` over those in `found`."""
    for name in names:
        found[name] = pc.coalesce(rows[name], found[name])


def _repeated(text: str, number: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), number)


def metadata_texts(metadata: Mapping[str, MetadataValue], names: Sequence[str]) -> list[str]:
    """The texts that a source carries under the first of these names that it has, in any case."""
    known = {name.lower(): texts_of(value) for name, value in metadata.items()}
    found = (known.get(name, []) for name in names)
    return next((texts for texts in found if any(texts)), [])
