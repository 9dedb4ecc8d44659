"""Training shards: Parquet files of what was kept, with a manifest that is written last.

The ledger is gone over twice: first to learn how much there is, so that every file's name can tell how
many there are, then to write. The same samples give the same bytes: the order is a hash of seed and
sample id inside groups of consecutive units, and a group is all that is held in memory at a time,
beside one unfinished file per split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Protocol

from pydantic import Field

from curation.errors import LedgerError
from curation.ledger.selection import Kept
from curation.pipeline.models import fetch, resolve_revision
from curation.records import ID_LENGTH, stable_id
from curation.stage import Location, ModelRef
from curation.storage import Storage
from tokenize_shards.documents.document import DocumentConfig, draw
from tokenize_shards.documents.text import TextTokenizer
from tokenize_shards.shards.manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    Shard,
    add_digests,
    digest_ids,
    key_in,
    read_manifest,
    write_manifest,
)
from tokenize_shards.shards.rows import REPEATED, SCHEMA, document_of
from tokenize_shards.shards.shardfile import ShardFile

FORMAT = 2
"""Raise it when the same samples and settings give other files; they are then written anew."""
_ROW_BYTES = 256
"""What a row takes beside its codes and texts, about."""


class ShardConfig(DocumentConfig):
    """Settings of the shards."""

    vocabulary: Location
    """Emu3's text vocabulary: a file (`qwen.tiktoken` or a `tokenizer.json`), `package:NAME/path`, a URL with
    its sha256, or a folder or hub name of a tokenizer."""
    vocabulary_file: str = "tokenizer.json"
    """Which file of a folder or of a hub name's repository."""
    vocabulary_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """sha256 that the vocabulary must have."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of sources, 0..1, whose samples go to validation shards; a source is never in both splits."""
    shard_bytes: Annotated[int, Field(ge=1)] = 256_000_000
    """Size of a shard in bytes, about; a larger one holds a single sample."""
    row_group_bytes: Annotated[int, Field(ge=1)] = 16_000_000
    """Size of a row group in bytes, about: what a reader loads at a time."""
    shuffle_bytes: Annotated[int, Field(ge=1)] = 1_000_000_000
    """Bytes of samples that are shuffled together and held in memory, about; at least one unit."""
    seed: int = 0
    """Seed of the order, of the split, and of what each document is for."""


class Samples(Protocol):
    """Where samples come from, unit by unit; `curation.ledger.selection.Selection` is one."""

    def units(self) -> Iterable[int]:
        """The units, in order."""

    def kept(self, unit: int) -> Iterable[Kept]:
        """The samples of a unit, in any order."""

    def codes(self, unit: int) -> Mapping[str, bytes]:
        """sample_id -> codes."""


@dataclass(frozen=True)
class Written:
    """What `write` left in the folder."""

    num_shards: int
    num_samples: int
    num_tokens: int
    splits: tuple[str, ...]
    changed: bool

    @staticmethod
    def of(manifest: Manifest, *, changed: bool) -> Written:
        """What a manifest says."""
        splits = tuple(name for name in SPLITS if manifest.of_split(name))
        return Written(
            len(manifest.shards), manifest.num_samples, manifest.num_tokens, splits, changed=changed
        )


@dataclass
class _Plan:
    """What the first pass over the samples found.

    Attributes:
        groups: Units that are shuffled together.
        num_samples, num_bytes: Of each split; bytes are estimated.
        selection: Digest of settings and samples.
        samples: Digest of the sample ids.
    """

    groups: list[list[int]] = field(default_factory=list)
    num_samples: Counter[str] = field(default_factory=Counter)
    num_bytes: Counter[str] = field(default_factory=Counter)
    selection: str = ""
    samples: str = digest_ids(())


class ShardWriter:
    """Builds documents and writes shards."""

    Config = ShardConfig

    def __init__(self, config: ShardConfig) -> None:
        self.config = config
        self._ref = ModelRef(
            "vocabulary",
            config.vocabulary,
            file=config.vocabulary_file,
            sha256=config.vocabulary_sha256,
        )

    def check(self) -> str:
        """The vocabulary's sha256, before any work is done.

        Raises:
            ConfigError: there is no such file, or it is another one.
        """
        return resolve_revision(self._ref)

    def write(self, storage: Storage, folder: str, samples: Samples) -> Written:
        """Write the shards of `samples` into `folder`, unless exactly they are there.

        Raises:
            TokenizeError: a sample's codes are no grid of the codebook's.
        """
        vocabulary = self.check()
        plan = self._plan(samples, vocabulary)
        present = _present(storage, folder)
        if present is not None and present.selection == plan.selection:
            return Written.of(present, changed=False)
        # Without its manifest a half-replaced folder is no dataset.
        storage.delete(key_in(folder, MANIFEST))
        rows = self._rows(plan, samples, TextTokenizer(fetch(self._ref, vocabulary)))
        files = {
            split: _Files(self.config, storage, folder, split, plan.num_samples[split], plan.num_bytes[split])
            for split in SPLITS
        }
        for row in rows:
            files[row["split"]].add(row)
        shards = tuple(shard for split in SPLITS for shard in files[split].finish())
        _remove_others(storage, folder, {shard.name for shard in shards})
        manifest = Manifest(
            selection=plan.selection, samples=plan.samples, vocabulary_sha256=vocabulary, shards=shards
        )
        write_manifest(storage, folder, manifest)
        return Written.of(manifest, changed=True)

    def _plan(self, samples: Samples, vocabulary: str) -> _Plan:
        plan = _Plan(
            selection=stable_id(FORMAT, self.config.model_dump_json(exclude={"vocabulary"}), vocabulary)
        )
        group_bytes = 0
        for unit in samples.units():
            kept = sorted(samples.kept(unit), key=lambda item: item.sample_id)
            unit_bytes = sum(map(_estimated_bytes, kept))
            if not plan.groups or group_bytes + unit_bytes > self.config.shuffle_bytes:
                plan.groups.append([])
                group_bytes = 0
            plan.groups[-1].append(unit)
            group_bytes += unit_bytes
            for item in kept:
                split = self._split(item)
                plan.num_samples[split] += 1
                plan.num_bytes[split] += _estimated_bytes(item)
            plan.samples = add_digests(plan.samples, digest_ids(item.sample_id for item in kept))
            plan.selection = stable_id(plan.selection, *map(_described, kept))
        return plan

    def _split(self, item: Kept) -> str:
        draw = int(stable_id("split", self.config.seed, item.columns["source_id"]), 16) / 16**ID_LENGTH
        return "validation" if draw < self.config.validation_fraction else "train"

    def _rows(self, plan: _Plan, samples: Samples, tokenizer: TextTokenizer) -> Iterator[dict[str, Any]]:
        for group in plan.groups:
            found = [(unit, item) for unit in group for item in samples.kept(unit)]
            found.sort(key=lambda pair: stable_id(self.config.seed, pair[1].sample_id))
            codes = {unit: samples.codes(unit) for unit in sorted({unit for unit, _ in found})}
            for unit, item in found:
                yield self._row(item, codes[unit][item.sample_id], tokenizer)

    def _row(self, item: Kept, codes: bytes, tokenizer: TextTokenizer) -> dict[str, Any]:
        columns = item.columns
        shape = (columns["grid_t"], columns["grid_h"], columns["grid_w"])
        meta = self.config.meta(columns["kind"], shape, columns["fps"])
        drawn = draw(item.sample_id, self.config.seed, self.config)
        row = {
            "sample_id": item.sample_id,
            **columns,
            "split": self._split(item),
            "meta": meta,
            "codes": codes,
            "task": drawn.task,
            "text_ids": tokenizer.encode(columns["caption"]) if drawn.has_caption else [],
            "meta_ids": tokenizer.encode(meta),
        }
        return {**row, "num_tokens": len(document_of(row))}


class _Files:
    """The shards of one split, cut so that they are of about equal size and as many as planned."""

    def __init__(
        self,
        config: ShardConfig,
        storage: Storage,
        folder: str,
        split: str,
        num_samples: int,
        num_bytes: int,
    ) -> None:
        self._storage, self._folder, self._split = storage, folder, split
        self._row_group_bytes = config.row_group_bytes
        self._num_bytes, self._rows_left = num_bytes, num_samples
        self._number = min(num_samples, -(-num_bytes // config.shard_bytes))
        self._done: list[Shard] = []
        self._file: ShardFile | None = None
        self._bytes_before = self._group_bytes = 0

    def add(self, row: dict[str, Any]) -> None:
        """Take in the next row, in a new file if the present one has its share."""
        size = _row_bytes(row)
        if self._file is None or self._is_full():
            self._close()
            index = len(self._done)
            name = f"{self._split}-{index:05d}-of-{self._number:05d}.parquet"
            self._file = ShardFile(name, self._split, SCHEMA, REPEATED)
            self._group_bytes = 0
        elif self._group_bytes + size > self._row_group_bytes:
            self._file.end_row_group()
            self._group_bytes = 0
        self._file.add(row, media_s=(row["end_s"] or 0.0) - (row["start_s"] or 0.0))
        self._group_bytes += size
        self._bytes_before += size
        self._rows_left -= 1

    def _is_full(self) -> bool:
        """Whether the open file has its share of the bytes, or the rows left are needed one per file."""
        files_left = self._number - len(self._done) - 1
        has_share = self._bytes_before * self._number >= self._num_bytes * (len(self._done) + 1)
        return files_left > 0 and (has_share or self._rows_left <= files_left)

    def _close(self) -> None:
        if self._file is not None:
            self._done.append(self._file.write(self._storage, self._folder))
            self._file = None

    def finish(self) -> list[Shard]:
        """Write the last file; all of them."""
        self._close()
        return self._done


def _estimated_bytes(item: Kept) -> int:
    """Bytes of a sample in a shard: codes hardly compress, text ids take about as much as the text."""
    columns = item.columns
    num_codes: int = columns["grid_t"] * columns["grid_h"] * columns["grid_w"]
    return 2 * num_codes + 2 * len(columns["caption"].encode()) + _ROW_BYTES


def _row_bytes(row: Mapping[str, Any]) -> int:
    return len(row["codes"]) + 2 * len(row["caption"].encode()) + _ROW_BYTES


def _described(item: Kept) -> str:
    return json.dumps([item.sample_id, item.measured_by, item.columns], sort_keys=True)


def _present(storage: Storage, folder: str) -> Manifest | None:
    """The manifest, if every shard that it names is there in its size."""
    try:
        manifest = read_manifest(storage, folder)
    except LedgerError:
        return None
    if manifest is None:
        return None
    sizes = {PurePosixPath(item.key).name: item.size_bytes for item in storage.list(folder)}
    whole = all(sizes.get(shard.name) == shard.size_bytes for shard in manifest.shards)
    return manifest if whole else None


def _remove_others(storage: Storage, folder: str, names: set[str]) -> None:
    """Shards of an earlier selection."""
    for item in storage.list(folder):
        name = PurePosixPath(item.key).name
        is_shard = name.endswith(".parquet") and name.startswith(tuple(f"{split}-" for split in SPLITS))
        if is_shard and name not in names:
            storage.delete(item.key)
