"""Packs of whole documents, for `ShardDataset`, which then packs nothing while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.report.cards.croissant import PARQUET
from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import (
    Export,
    Exported,
    FinishedShards,
    ShardRow,
    parquet_files,
)
from curation.tokenize_shards.shards.manifest import (
    SPLITS,
    Manifest,
    Shard,
    add_digests,
    digest_ids,
    write_manifest,
)
from curation.tokenize_shards.shards.rows import PACK_SCHEMA
from curation.tokenize_shards.shards.shardfile import ShardFile
from curation.tokenize_shards.shards.stream import ShardStream


class PackedConfig(StageConfig):
    """Settings of the packs."""

    context: Annotated[int, Field(ge=1, le=2**24)] = 5120
    """Ids of a pack, at most, 1..16,777,216; a longer document is left out. A pack is held in memory."""


class PackedExport(Export[PackedConfig]):
    """Shards whose rows are packs, with a manifest that says for which context."""

    Config = PackedConfig
    about = (
        "Packs of whole documents, one after the other without padding: `input_ids`, `lengths` of the "
        "documents, `sample_ids`, `num_tokens`."
    )
    usage = (
        'from curation.tokenize_shards.shards.loader import ShardDataset\n\ndataset = ShardDataset("FOLDER")'
    )
    data_files = "{split}-*.parquet"
    table_type = PARQUET

    def loaded_schema(self, shard: pa.Schema) -> pa.Schema:
        return PACK_SCHEMA

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        done = Exported()
        written: list[Shard] = []
        samples = digest_ids(())
        for split in SPLITS:
            number = len(shards.manifest.of_split(split))
            if number:
                stream = ShardStream(shards.folder, split=split, context=self.config.context)
                done.num_rows[split] = stream.count_packs()
                for packed in _packed_shards(target, stream, split, number):
                    written.append(packed[0])
                    samples = add_digests(samples, packed[1])
                done.left_out[f"documents longer than {self.config.context} ids"] += stream.fill.num_too_long
        manifest = Manifest(
            selection=f"{shards.manifest.selection}-packed-{self.config.context}",
            samples=samples,
            vocabulary_sha256=shards.manifest.vocabulary_sha256,
            shards=tuple(written),
            context=self.config.context,
            decided=shards.manifest.decided,
        )
        write_manifest(target, "", manifest)
        done.num_samples, done.num_files = manifest.num_samples, len(written) + 1
        return done

    def count(self, target: Storage) -> int:
        packs = (file.read(["sample_ids"], use_threads=False)["sample_ids"] for file in parquet_files(target))
        return sum(len(ids) for column in packs for ids in column.to_pylist())


def _packed_shards(
    target: Storage, stream: ShardStream, split: str, number: int
) -> Iterator[tuple[Shard, str]]:
    """Up to `number` shards of a split, and the digests of the samples in them."""
    num_packs = stream.count_packs()
    each = max(1, -(-num_packs // number))
    number = -(-num_packs // each)
    packs = iter(stream)
    for index in range(number):
        file = ShardFile(f"{split}-{index:05d}-of-{number:05d}.parquet", split, PACK_SCHEMA, ())
        names: list[str] = []
        for place in range(min(each, num_packs - index * each)):
            example = next(packs)
            if place % 500 == 499:
                file.end_row_group()
            file.add(
                _packed_row(example.pack.input_ids, example.pack.cu_seqlens, example.sample_ids), media_s=0.0
            )
            names += example.sample_ids
        yield file.write(target, ""), digest_ids(names)


def _packed_row(input_ids: Any, cu_seqlens: Any, sample_ids: tuple[str, ...]) -> ShardRow:
    bounds = cu_seqlens[: len(sample_ids) + 1]
    return {
        "sample_ids": list(sample_ids),
        "input_ids": input_ids[: bounds[-1]],
        "lengths": np.diff(bounds),
        "num_tokens": int(bounds[-1]),
    }
