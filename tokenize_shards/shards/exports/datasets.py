"""Parquet for `datasets.load_dataset(DIR)`: nested codes, and the document's ids as `input_ids`."""

from __future__ import annotations

import pyarrow as pa
import yaml

from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import (
    Export,
    Exported,
    FinishedShards,
    parquet_files,
)
from curation.tokenize_shards.shards.manifest import SPLITS, Manifest
from curation.tokenize_shards.shards.rows import REPEATED, document_of, grid_of
from curation.tokenize_shards.shards.shardfile import ShardFile

_ROWS_IN_GROUP = 1000


def _schema(shard: pa.Schema) -> pa.Schema:
    """That of the shard, whatever stages export, with nested `codes` and with `input_ids`."""
    nested = pa.field("codes", pa.list_(pa.list_(pa.list_(pa.uint16()))))
    ids = pa.field("input_ids", pa.list_(pa.int32()))
    return shard.set(shard.get_field_index("codes"), nested).append(ids)


class DatasetsExport(Export[StageConfig]):
    """A Parquet file per shard below `data/`, and a card in whose header `datasets` finds the splits."""

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
                done.num_files += 1
        target.write("README.md", _card(shards.manifest).encode())
        return done

    def count(self, target: Storage) -> int:
        return sum(file.metadata.num_rows for file in parquet_files(target))


def _card(manifest: Manifest) -> str:
    """The header in which `datasets` finds the splits."""
    files = [
        {"split": split, "path": f"data/{split}-*.parquet"} for split in SPLITS if manifest.of_split(split)
    ]
    header = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]}, sort_keys=False)
    return f"---\n{header}---\n\n{manifest.num_samples} samples, {manifest.num_tokens} tokens.\n"
