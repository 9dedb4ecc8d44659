"""Writes the files of one task of the layout: in this process, or wherever a worker has time for it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import LedgerError
from curation.pipeline.models import fetch
from curation.records import ID_LENGTH, stable_id
from curation.stage import Column, ModelRef
from curation.storage import Storage
from curation.tokenize_shards.documents.text import TextTokenizer
from curation.tokenize_shards.shards.builder import GroupCodes, RowBuilder, code_values, estimated_bytes
from curation.tokenize_shards.shards.config import ShardConfig
from curation.tokenize_shards.shards.layout import FileCutter, FileTask
from curation.tokenize_shards.shards.manifest import Shard
from curation.tokenize_shards.shards.rows import REPEATED, shard_columns, shard_schema
from curation.tokenize_shards.shards.shardfile import ShardFile
from curation.tokenize_shards.vision.codebook import CodeCounts


class Samples(Protocol):
    """Where samples come from, by column; `curation.ledger.selection.Selection` is one. Can be pickled.

    Attributes:
        exported: The columns that stages export.
        made_by: What is the same for all samples, and not in their columns.
    """

    exported: Mapping[str, Column]
    made_by: tuple[str, ...]

    def units(self) -> Iterable[int]:
        """The units, in order."""

    def kept(self, units: Iterable[int]) -> Iterator[pa.Table]:
        """The samples of these units, with their `unit`."""

    def licenses(self, table: pa.Table) -> pa.Array | pa.ChunkedArray:
        """The license of each of these samples."""

    def described(self, table: pa.Table) -> pa.Table:
        """Samples with all columns of a shard that follow from the ledger, but for codes."""

    def codes(self, units: Iterable[int]) -> Iterator[pa.Table]:
        """`sample_id` and `codes` of the units."""


def in_split(split: str, source_id: pa.ChunkedArray, config: ShardConfig) -> NDArray[np.bool_]:
    """Whether samples of these sources are in the split: bool [N], a pure function of id and seed."""
    if not config.validation_fraction:
        return np.full(len(source_id), split == "train")
    encoded = source_id.combine_chunks().dictionary_encode()
    draws = [
        int(stable_id("split", config.seed, name), 16) / 16**ID_LENGTH
        for name in encoded.dictionary.to_pylist()
    ]
    is_validation = np.array(draws) < config.validation_fraction
    found: NDArray[np.bool_] = is_validation[encoded.indices.to_numpy()] == (split == "validation")
    return found


@dataclass(frozen=True)
class TaskWriter:
    """Writes the files of a task. It can be pickled, and gives the same bytes wherever it is called.

    Attributes:
        config: Settings of the shards.
        vocabulary: The text vocabulary.
        vocabulary_sha256: Its digest.
        storage: Where the shards go.
        folder: Their folder there.
        samples: What is in them.
    """

    config: ShardConfig
    vocabulary: ModelRef
    vocabulary_sha256: str
    storage: Storage
    folder: str
    samples: Samples

    def __call__(self, task: FileTask) -> tuple[Shard, ...]:
        """Write the files, with one group and one file in memory at a time.

        Raises:
            LedgerError: the samples are no longer those that the task was planned for.
            TokenizeError: a sample's codes are no grid of the codebook's.
        """
        cutter = FileCutter(task, self.config.row_group_bytes)
        schema = shard_schema(shard_columns(self.samples.exported))
        tokenizer = _tokenizer(fetch(self.vocabulary, self.vocabulary_sha256), self.vocabulary_sha256)
        builder = RowBuilder(self.config, self.config.seed, task.split, schema, tokenizer)
        done: list[Shard] = []
        file: SampleFile | None = None
        for rows, begins_file in self._row_groups(task, cutter, builder):
            if begins_file and file is not None:
                done.append(file.write(self.storage, self.folder))
            if begins_file or file is None:
                file = SampleFile(task.name(len(done)), task.split, schema)
            file.add(rows, begins_row_group=begins_file is not None)
        if file is not None:
            done.append(file.write(self.storage, self.folder))
        if sum(shard.num_samples for shard in done) != task.num_samples or len(done) != task.num_files:
            raise LedgerError("the kept samples changed while shards were written; run again")
        return tuple(done)

    def _row_groups(
        self, task: FileTask, cutter: FileCutter, builder: RowBuilder
    ) -> Iterator[tuple[pa.Table, bool | None]]:
        """Rows in order, in parts; whether a part begins a file, and None if it goes on with a row group."""
        for group in task.groups:
            samples = self._samples(task.split, group)
            codes = GroupCodes(self.samples.codes(group), samples["sample_id"].combine_chunks())
            begins = dict(cutter.begins(estimated_bytes(samples)))
            bounds = sorted({0, *begins, samples.num_rows})
            for start, stop in itertools.pairwise(bounds):
                part = samples.slice(start, stop - start)
                yield builder.rows(part, codes.take(start, stop)), begins.get(start)

    def _samples(self, split: str, group: tuple[int, ...]) -> pa.Table:
        """The split's samples of a group, shuffled: the order is a hash of seed and sample id."""
        table = pa.concat_tables(self.samples.kept(group))
        table = self.samples.described(
            table.filter(pa.array(in_split(split, table["source_id"], self.config)))
        )
        draws = [stable_id(self.config.seed, sample_id) for sample_id in table["sample_id"].to_pylist()]
        return table.take(pa.array(np.argsort(np.array(draws, np.str_), kind="stable")))


class SampleFile:
    """A shard as it grows, and the codes in it."""

    def __init__(self, name: str, split: str, schema: pa.Schema) -> None:
        """Begin a file of rows with this schema."""
        self._file = ShardFile(name, split, schema, REPEATED)
        self._counts = CodeCounts()

    def add(self, rows: pa.Table, *, begins_row_group: bool) -> None:
        """Take in rows of samples."""
        if begins_row_group:
            self._file.end_row_group()
        spans = pc.subtract(rows["end_s"], rows["start_s"]).drop_null()
        self._file.add_table(rows, media_s=float(sum(spans.to_pylist())))
        for codes in rows["codes"].chunks:
            self._counts.add(code_values(codes))

    def write(self, storage: Storage, folder: str) -> Shard:
        """Put the file into its folder as a whole."""
        use = {name: round(value, 6) for name, value in asdict(self._counts.use()).items()}
        return replace(self._file.write(storage, folder), codebook_use=use)


@functools.lru_cache(maxsize=1)
def _tokenizer(path: Path, sha256: str) -> TextTokenizer:
    """The tokenizer, loaded once by a process that writes several tasks."""
    return TextTokenizer(path)
