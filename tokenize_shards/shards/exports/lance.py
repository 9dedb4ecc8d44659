"""Lance: a data set per split, for random access by row."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from curation.errors import MissingDependencyError, StorageError
from curation.stage import StageConfig
from curation.storage import Storage
from curation.storage.scratch import scratch
from curation.tokenize_shards.shards.exports.base import ROWS_AT_A_TIME, Export, Exported, FinishedShards
from curation.tokenize_shards.shards.manifest import SPLITS
from curation.tokenize_shards.shards.shardfile import open_shard

_VERSIONS = "/_versions/"
_BLOCK_BYTES = 1 << 23


def _lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise MissingDependencyError(
            f"Lance is written by the package pylance: {error}; pip install 'curation[lance]'"
        ) from error
    return lance


class LanceExport(Export[StageConfig]):
    """A data set `SPLIT.lance` per split. Lance names its files itself, anew each time.

    It has a client of its own for buckets, which knows nothing of our credentials and retries. So it writes
    and reads files of this machine, which are brought to a bucket, and from there, by the storage.
    """

    about = (
        "A Lance data set per split, `train.lance` and `validation.lance`, with the columns of the shards."
    )
    usage = (
        "import lance\n\n"
        'dataset = lance.dataset("FOLDER/train.lance")\n'
        'dataset.take([0], columns=["caption"]).to_pylist()'
    )

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        lance, done = _lance(), Exported()
        for split in SPLITS:
            of_split = shards.manifest.of_split(split)
            if of_split:
                schema = shards.schema(of_split[0])
                reader = pa.RecordBatchReader.from_batches(schema, _batches(shards, split))
                with _folder_of(target) as folder:
                    written = lance.write_dataset(reader, str(folder / f"{split}.lance"))
                    if not target.is_local:
                        _bring(folder, target)
                done.num_samples += written.count_rows()
                done.num_files += len(written.get_fragments())
        return done

    def count(self, target: Storage) -> int:
        """Rows, of which every column is read."""
        lance, number = _lance(), 0
        found = {item.key.partition("/")[0] for item in target.list("")}
        for name in sorted(name for name in found if name.endswith(".lance")):
            with _folder_of(target) as folder:
                if not target.is_local:
                    _fetch(target, name, folder)
                try:
                    batches = lance.dataset(str(folder / name)).to_batches(batch_size=ROWS_AT_A_TIME)
                    number += sum(batch.num_rows for batch in batches)
                except (ValueError, OSError) as error:
                    raise StorageError(f"{target.root}/{name} can't be read: {error}") from error
        return number


@contextmanager
def _folder_of(target: Storage) -> Iterator[Path]:
    """Where Lance works: the folder that the target is, or a temporary one for a split."""
    if target.is_local:
        yield Path(target.root)
        return
    with TemporaryDirectory(prefix="curation-", dir=scratch().folder) as folder:
        yield Path(folder)


def _bring(folder: Path, target: Storage) -> None:
    """Copy the files of a data set; what names the others comes last, so that nobody reads half of it."""
    keys = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for key in sorted(keys, key=lambda key: (_VERSIONS in key, key)):
        with (folder / key).open("rb") as file, target.creating(key) as copy:
            shutil.copyfileobj(file, copy, _BLOCK_BYTES)


def _fetch(target: Storage, name: str, folder: Path) -> None:
    for item in target.list(name):
        path = folder / item.key
        path.parent.mkdir(parents=True, exist_ok=True)
        with target.open(item.key, item.etag) as file, path.open("wb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK_BYTES)


def _batches(shards: FinishedShards, split: str) -> Iterator[pa.RecordBatch]:
    for shard in shards.manifest.of_split(split):
        try:
            with shards.storage.open(shard.name) as file:
                parquet = open_shard(file)
                yield from parquet.iter_batches(ROWS_AT_A_TIME, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{shards.folder}/{shard.name} can't be read: {error}") from error
