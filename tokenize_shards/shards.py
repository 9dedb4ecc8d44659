"""Training shards: Parquet files of what was kept, with a manifest that is written last.

The same samples give the same bytes: the order is a hash of seed and sample id inside groups of
consecutive units, and a group is all that is held in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from curation import tables
from curation.models import fetch, resolve_revision
from curation.records import stable_id
from curation.select import Kept
from curation.stage import ModelRef, StageConfig, check_template
from curation.storage import Storage
from tokenize_shards.document import Task, build
from tokenize_shards.text import TextTokenizer
from tokenize_shards.vision import TEMPORAL_FACTOR

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("source_id", pa.string()),
        ("source_uri", pa.string()),
        ("kind", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("split", pa.string()),
        ("caption", pa.string()),
        ("meta", pa.string()),
        ("codes", pa.binary()),
        ("grid_t", pa.int32()),
        ("grid_h", pa.int32()),
        ("grid_w", pa.int32()),
        ("fps", pa.float32()),
        ("text_ids", pa.list_(pa.int32())),
        ("aesthetic_score", pa.float32()),
        ("text_coverage", pa.float32()),
        ("flow_score", pa.float32()),
        ("caption_model", pa.string()),
        ("tokenizer", pa.string()),
        ("license", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
    ]
)
MANIFEST = "manifest.json"
CodesOf = Callable[[int], Mapping[str, bytes]]
"""unit -> sample_id -> codes"""


class ShardConfig(StageConfig):
    """Settings of the shards."""

    vocabulary: str
    """Emu3's text vocabulary (`qwen.tiktoken`): a file, `package:NAME/path`, or a URL with its sha256."""
    vocabulary_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """sha256 that the vocabulary must have."""
    task: Task = "generation"
    """Whether the caption stands before the vision tokens or behind them."""
    image_meta: str = "{rows}*{cols}"
    """Text between the caption and an image's tokens."""
    clip_meta: str = "{rows}*{cols}*{frames} {fps}fps {seconds}s"
    """The same for a clip: grid size, rate and seconds that were encoded; Emu3's is unpublished."""
    samples_per_shard: Annotated[int, Field(ge=1)] = 10_000
    """Rows in a shard, at most."""
    seed: int = 0
    """Seed of the order."""
    units_per_group: Annotated[int, Field(ge=1)] = 64
    """Units that are shuffled together."""

    @model_validator(mode="after")
    def _templates_can_be_filled(self) -> ShardConfig:
        check_template("image_meta", self.image_meta, rows=1, cols=1)
        check_template("clip_meta", self.clip_meta, rows=1, cols=1, frames=1, fps="1", seconds="1.0")
        return self


@dataclass(frozen=True)
class Written:
    """What `write` left in the folder."""

    num_shards: int
    num_samples: int
    num_tokens: int
    changed: bool


class ShardWriter:
    """Builds documents and writes shards."""

    Config = ShardConfig

    def __init__(self, config: ShardConfig) -> None:
        self.config = config
        self._ref = ModelRef("vocabulary", config.vocabulary, sha256=config.vocabulary_sha256)

    def check(self) -> str:
        """The vocabulary's sha256, before any work is done.

        Raises:
            ConfigError: there is no such file, or it is another one.
        """
        return resolve_revision(self._ref)

    def write(self, storage: Storage, folder: str, kept: Iterable[Kept], codes_of: CodesOf) -> Written:
        """Write the shards of `kept`, unless exactly they are there.

        Args:
            storage: Where to.
            folder: Key of the dataset's folder.
            kept: The samples, in any order.
            codes_of: Gives the codes of a unit's samples.
        """
        ordered = sorted(kept, key=self._place)
        vocabulary = self.check()
        selection = stable_id(
            self.config.model_dump_json(exclude={"vocabulary"}),
            vocabulary,
            *(
                json.dumps([item.sample_id, item.measured_by, item.columns], sort_keys=True)
                for item in ordered
            ),
        )
        present = _present(storage, folder)
        if present is not None and present["selection"] == selection:
            return Written(
                len(present["shards"]), present["num_samples"], present["num_tokens"], changed=False
            )
        # Without its manifest a half-replaced folder is no dataset.
        storage.delete(f"{folder}/{MANIFEST}")
        tokenizer = TextTokenizer(fetch(self._ref, vocabulary))
        number = -(-len(ordered) // self.config.samples_per_shard)
        shards = []
        for index, rows in enumerate(self._shards(ordered, tokenizer, codes_of)):
            shards.append(_write_shard(storage, f"{folder}/train-{index:05d}-of-{number:05d}.parquet", rows))
        self._remove_others(storage, folder, {shard["name"] for shard in shards})
        manifest = {
            "selection": selection,
            "num_samples": len(ordered),
            "num_tokens": sum(shard["num_tokens"] for shard in shards),
            "vocabulary_sha256": vocabulary,
            "shards": shards,
        }
        storage.write(f"{folder}/{MANIFEST}", (json.dumps(manifest, indent=2) + "\n").encode())
        return Written(len(shards), len(ordered), manifest["num_tokens"], changed=True)

    def _place(self, item: Kept) -> tuple[int, str]:
        return item.unit // self.config.units_per_group, stable_id(self.config.seed, item.sample_id)

    def _shards(
        self, ordered: Sequence[Kept], tokenizer: TextTokenizer, codes_of: CodesOf
    ) -> Iterator[list[dict[str, Any]]]:
        held: dict[int, Mapping[str, bytes]] = {}
        rows: list[dict[str, Any]] = []
        group = -1
        for item in ordered:
            if (own := self._place(item)[0]) != group:
                group, held = own, {}
            if item.unit not in held:
                held[item.unit] = codes_of(item.unit)
            rows.append(self._row(item, held[item.unit][item.sample_id], tokenizer))
            if len(rows) == self.config.samples_per_shard:
                yield rows
                rows = []
        if rows:
            yield rows

    def _row(self, item: Kept, codes: bytes, tokenizer: TextTokenizer) -> dict[str, Any]:
        columns = item.columns
        shape = (columns["grid_t"], columns["grid_h"], columns["grid_w"])
        meta = self._meta(columns)
        text_ids = tokenizer.encode(columns["caption"])
        grid = np.frombuffer(codes, "<u2").reshape(shape)
        input_ids = build(text_ids, tokenizer.encode(meta), grid, self.config.task)
        made = {"meta": meta, "codes": codes, "text_ids": text_ids, "input_ids": input_ids, "split": "train"}
        return {"sample_id": item.sample_id, **columns, **made}

    def _meta(self, columns: dict[str, Any]) -> str:
        if columns["kind"] == "image":
            return self.config.image_meta.format(rows=columns["grid_h"], cols=columns["grid_w"])
        return self.config.clip_meta.format(
            rows=columns["grid_h"],
            cols=columns["grid_w"],
            frames=columns["grid_t"],
            fps=f"{columns['fps']:g}",
            seconds=f"{columns['grid_t'] * TEMPORAL_FACTOR / columns['fps']:.1f}",
        )

    @staticmethod
    def _remove_others(storage: Storage, folder: str, names: set[str]) -> None:
        """Shards of an earlier selection."""
        for item in storage.list(folder):
            name = Path(item.key).name
            if name.startswith("train-") and name.endswith(".parquet") and name not in names:
                storage.delete(item.key)


def _present(storage: Storage, folder: str) -> dict[str, Any] | None:
    """The manifest, if every shard that it names is there in its size."""
    data = storage.read(f"{folder}/{MANIFEST}")
    if data is None:
        return None
    try:
        manifest: dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    sizes = {Path(item.key).name: item.size_bytes for item in storage.list(folder)}
    whole = all(sizes.get(shard["name"]) == shard["size_bytes"] for shard in manifest["shards"])
    return manifest if whole else None


def _write_shard(storage: Storage, key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    data = tables.to_bytes(pa.Table.from_pylist(rows, schema=SCHEMA))
    storage.write(key, data)
    return {
        "name": Path(key).name,
        "num_samples": len(rows),
        "num_tokens": sum(len(row["input_ids"]) for row in rows),
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
