"""Lance: a data set per split, for random access by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from curation.errors import ConfigError, MissingDependencyError, StorageError
from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import ROWS_AT_A_TIME, Export, Exported, FinishedShards
from curation.tokenize_shards.shards.manifest import SPLITS
from curation.tokenize_shards.shards.shardfile import open_shard


def _lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise MissingDependencyError(
            f"Lance is written by the package pylance: {error}; pip install 'curation[lance]'"
        ) from error
    return lance


class LanceExport(Export[StageConfig]):
    """A data set `SPLIT.lance` per split. Lance names its files itself, anew each time, in a local folder."""

    about = (
        "A Lance data set per split, `train.lance` and `validation.lance`, with the columns of the shards."
    )
    usage = (
        "import lance\n\n"
        'dataset = lance.dataset("FOLDER/train.lance")\n'
        'dataset.take([0], columns=["caption"]).to_pylist()'
    )

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        if not target.is_local:
            raise ConfigError(
                f"{target.root}: Lance data sets are written into a local folder; copy them from there"
            )
        lance, done = _lance(), Exported()
        for split in SPLITS:
            of_split = shards.manifest.of_split(split)
            if of_split:
                schema = shards.schema(of_split[0])
                batches = _batches(shards, split)
                reader = pa.RecordBatchReader.from_batches(schema, batches)
                written = lance.write_dataset(reader, f"{target.root}/{split}.lance")
                done.num_samples += written.count_rows()
                done.num_files += len(written.get_fragments())
        return done

    def count(self, target: Storage) -> int:
        """Rows, of which every column is read."""
        lance, number = _lance(), 0
        found = {item.key.partition("/")[0] for item in target.list("")}
        for name in sorted(name for name in found if name.endswith(".lance")):
            try:
                batches = lance.dataset(f"{target.root}/{name}").to_batches(batch_size=ROWS_AT_A_TIME)
                number += sum(batch.num_rows for batch in batches)
            except (ValueError, OSError) as error:
                raise StorageError(f"{target.root}/{name} can't be read: {error}") from error
        return number


def _batches(shards: FinishedShards, split: str) -> Iterator[pa.RecordBatch]:
    for shard in shards.manifest.of_split(split):
        try:
            with shards.storage.open(shard.name) as file:
                parquet = open_shard(file)
                yield from parquet.iter_batches(ROWS_AT_A_TIME, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{shards.folder}/{shard.name} can't be read: {error}") from error
