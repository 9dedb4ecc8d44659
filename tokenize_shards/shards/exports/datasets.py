"""Parquet for `datasets.load_dataset(DIR)`: nested codes, and the document's ids as `input_ids`."""

from __future__ import annotations

import pyarrow as pa

from curation.report.cards.croissant import PARQUET
from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import (
    CODES,
    Export,
    Exported,
    FinishedShards,
    parquet_files,
)
from curation.tokenize_shards.shards.manifest import SPLITS
from curation.tokenize_shards.shards.rows import REPEATED, document_of, grid_of
from curation.tokenize_shards.shards.shardfile import ShardFile

_ROWS_IN_GROUP = 1000


def _schema(shard: pa.Schema) -> pa.Schema:
    """That of the shard, whatever stages export, with nested `codes` and with `input_ids`."""
    nested = pa.field("codes", CODES)
    ids = pa.field("input_ids", pa.list_(pa.int32()))
    return shard.set(shard.get_field_index("codes"), nested).append(ids)


class DatasetsExport(Export[StageConfig]):
    """A Parquet file per shard below `data/`."""

    about = (
        "Parquet files below `data/`, with the columns of the shards: `codes` are lists [T][H][W], and "
        "`input_ids` are the ids of the document."
    )
    usage = (
        "from datasets import load_dataset\n\n"
        'dataset = load_dataset("FOLDER", split="train")\n'
        'dataset[0]["input_ids"]'
    )
    data_files = "data/{split}-*.parquet"
    table_type = PARQUET

    def loaded_schema(self, shard: pa.Schema) -> pa.Schema:
        return _schema(shard)

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        done = Exported()
        for split in SPLITS:
            of_split = shards.manifest.of_split(split)
            for number, shard in enumerate(of_split):
                name = f"{split}-{number:05d}-of-{len(of_split):05d}.parquet"
                file = ShardFile(name, split, _schema(shards.schema(shard)), REPEATED)
                for index, row in enumerate(shards.rows(shard)):
                    if index % _ROWS_IN_GROUP == _ROWS_IN_GROUP - 1:
                        file.end_row_group()
                    own = {"codes": grid_of(row).tolist(), "input_ids": document_of(row)}
                    file.add({**row, **own}, media_s=0.0)
                done.num_samples += file.write(target, "data").num_samples
                done.made_of[f"data/{name}"] = shard.name
                done.num_files += 1
        return done

    def count(self, target: Storage) -> int:
        return sum(file.metadata.num_rows for file in parquet_files(target))
