"""What an export is: a class that writes shards in a layout that others read, and counts what lies there.

One class in one file and one line in `curation/registry.py`, or one entry point of another package, add a
format; `webdataset.py` is the smallest complete example.
"""

from __future__ import annotations

import abc
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from curation.errors import StorageError
from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.manifest import Manifest, Shard
from curation.tokenize_shards.shards.shardfile import open_shard

ShardRow = dict[str, Any]
"""A row of a shard, by column (`curation.tokenize_shards.shards.rows.shard_columns`)."""


@dataclass
class Exported:
    """What an export wrote.

    Attributes:
        num_samples, num_files: Samples and files of data.
        left_out: Why samples are not in it, and of how many this is true.
        num_rows: Split -> rows of its files, where this is another number than that of its samples.
        made_of: File -> the shard that all of its samples are from, where it is one shard.
    """

    num_samples: int = 0
    num_files: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    num_rows: dict[str, int] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)


CODES = pa.list_(pa.list_(pa.list_(pa.uint16())))
"""Codes as nested lists [T][H][W], for readers that know no bytes."""
ROWS_AT_A_TIME = 256
"""Rows of a shard that are Python objects together."""
_FILE_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class FinishedShards:
    """The shards that are exported: their folder as it was named, and what their manifest says."""

    folder: str
    storage: Storage
    manifest: Manifest

    def schema(self, shard: Shard) -> pa.Schema:
        """The columns of a shard.

        Raises:
            StorageError: the file can't be read.
        """
        try:
            with self.storage.open(shard.name) as file:
                return pq.read_schema(pa.PythonFile(file))
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{self.folder}/{shard.name} can't be read: {error}") from error

    def rows(self, shard: Shard) -> Iterator[ShardRow]:
        """The rows of a shard, some at a time in memory.

        Raises:
            StorageError: the file can't be read, or an id in it could not be the name of a file.
        """
        try:
            with self.storage.open(shard.name) as file:
                parquet = open_shard(file)
                for batch in parquet.iter_batches(ROWS_AT_A_TIME, use_threads=False):
                    for row in batch.to_pylist():
                        if not _FILE_NAME.fullmatch(row["sample_id"]):
                            raise StorageError(f"{self.folder}/{shard.name}: {row['sample_id']!r} is no id")
                        yield row
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{self.folder}/{shard.name} can't be read: {error}") from error


S = TypeVar("S", bound=StageConfig)


class Export(abc.ABC, Generic[S]):
    """One format.

    Class attributes:
        Config: its settings, which `curation export NAME --set KEY=VALUE` sets.
        about: What lies where, in a sentence or two, for the card.
        usage: Python that loads it from `FOLDER`, for the card.
        data_files: Pattern of the files of a split, with `{split}`, where `datasets.load_dataset` reads them.
        unread_files: The same where it does not; named on the card, so that it says so and does not take a
            list or an index beside them for the data.
        table_type: Their media type, where Croissant can describe them column by column.
    """

    Config: ClassVar[type[StageConfig]] = StageConfig
    about: ClassVar[str] = ""
    usage: ClassVar[str] = ""
    data_files: ClassVar[str | None] = None
    unread_files: ClassVar[str | None] = None
    table_type: ClassVar[str | None] = None

    def __init__(self, config: S) -> None:
        self.config = config

    @abc.abstractmethod
    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        """Write every sample of the shards into the empty folder `target`, or say why it is left out.

        Every sample is counted, in `num_samples` or in `left_out`. The same shards give the same bytes.
        """

    def loaded_schema(self, shard: pa.Schema) -> pa.Schema:
        """The columns that `load_dataset` finds, if it reads this; `shard` are those of the shards."""
        return shard

    @abc.abstractmethod
    def count(self, target: Storage) -> int:
        """The samples that lie in `target`, by reading what was written."""


def parquet_files(target: Storage) -> Iterator[pq.ParquetFile]:
    """Every Parquet file in a folder, open while it is looked at."""
    for item in target.list(""):
        if item.key.endswith(".parquet"):
            with target.open(item.key) as file:
                yield open_shard(file)
