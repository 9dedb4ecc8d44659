"""Training shards: Parquet files of what was kept, with a manifest that is written last.

    ShardWriter(config).write(storage, "shards/name", Selection(ledger, pipeline), pool.spread)

What is kept is counted first, so that every file's name can tell how many there are; then each task of
the layout writes its files. The same samples give the same bytes, whoever writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from curation.errors import LedgerError
from curation.execution.cluster.tasks import Spread, in_process
from curation.pipeline.decision import Decision
from curation.pipeline.models import resolve_revision
from curation.records import ID_LENGTH
from curation.report.cards.statistics import SampleStatistics
from curation.stage import Column, ModelRef
from curation.storage import Storage
from curation.tokenize_shards.shards.builder import estimated_bytes
from curation.tokenize_shards.shards.config import ShardConfig
from curation.tokenize_shards.shards.layout import FileTask, file_tasks, shuffle_groups
from curation.tokenize_shards.shards.manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    Shard,
    add_digests,
    digest_ids,
    digest_table,
    key_in,
    read_manifest,
    write_manifest,
)
from curation.tokenize_shards.shards.rows import shard_columns
from curation.tokenize_shards.shards.task import Samples, TaskWriter, in_split

__all__ = ["ShardConfig", "ShardWriter", "Written"]

FORMAT = 3
"""Raise it when the same samples and settings give other files; they are then written anew."""


@dataclass(frozen=True)
class Written:
    """What `write` left in the folder; `columns` of the shards say what they mean."""

    manifest: Manifest
    statistics: SampleStatistics
    columns: Mapping[str, Column]
    changed: bool

    @property
    def num_shards(self) -> int:
        """Files."""
        return len(self.manifest.shards)

    @property
    def num_samples(self) -> int:
        """Rows of all files."""
        return self.manifest.num_samples

    @property
    def num_tokens(self) -> int:
        """Ids of all documents."""
        return self.manifest.num_tokens

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have files."""
        return tuple(name for name in SPLITS if self.manifest.of_split(name))

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files."""
        return self.manifest.shards

    @property
    def selection(self) -> str:
        """Digest of samples and settings."""
        return self.manifest.selection

    @property
    def decided(self) -> Decision | None:
        """Where the thresholds came from."""
        return self.manifest.decided


@dataclass(frozen=True)
class _Counted:
    """How much there is of the samples, and which they are.

    Attributes:
        units: The units.
        num_samples, num_bytes: Split -> int64 [number of units]; bytes are estimated.
        selection: Digest of settings and samples.
        samples: Digest of the sample ids.
        statistics: What a card says of the samples.
    """

    units: list[int]
    num_samples: Mapping[str, NDArray[np.int64]]
    num_bytes: Mapping[str, NDArray[np.int64]]
    selection: str
    samples: str
    statistics: SampleStatistics


class ShardWriter:
    """Builds documents and writes shards."""

    Config = ShardConfig
    needs = ("caption", "codes")
    """Columns that stages must add to kept samples, as their `produces` says."""

    def __init__(self, config: ShardConfig) -> None:
        self.config = config
        self._ref = ModelRef(
            "vocabulary",
            config.vocabulary,
            file=config.vocabulary_file,
            sha256=config.vocabulary_sha256,
        )

    def models(self) -> tuple[ModelRef, ...]:
        """The vocabulary, as the only one."""
        return (self._ref,)

    def check(self, exported: Mapping[str, Column] | None = None) -> str:
        """The vocabulary's sha256, before any work is done; `exported` is what stages export.

        Raises:
            ConfigError: there is no such file, or it is another one; or a stage's column has a name that
                the shards need themselves.
        """
        shard_columns(exported or {})
        return resolve_revision(self._ref)

    def is_current(self, storage: Storage, folder: str, samples: Samples) -> bool:
        """Whether `write` would leave the folder as it is; nothing is written."""
        present = _present(storage, folder)
        return present is not None and present.selection == self._count(samples, self.check()).selection

    def write(
        self,
        storage: Storage,
        folder: str,
        samples: Samples,
        spread: Spread = in_process,
        *,
        decided: Decision | None = None,
    ) -> Written:
        """Write the shards of `samples` into `folder`, unless exactly they are there.

        The manifest is to say what `decided` about them, also where other settings chose the same samples.

        Raises:
            TokenizeError: a sample's codes are no grid of the codebook's.
        """
        vocabulary = self.check()
        columns = shard_columns(samples.exported)
        counted = self._count(samples, vocabulary)
        present = _present(storage, folder)
        if present is not None and present.selection == counted.selection:
            if decided is not None and decided != present.decided:
                present = replace(present, decided=decided)
                write_manifest(storage, folder, present)
            return Written(present, counted.statistics, columns, changed=False)
        # Without its manifest a half-replaced folder is no dataset.
        storage.delete(key_in(folder, MANIFEST))
        write_task = TaskWriter(self.config, self._ref, vocabulary, storage, folder, samples)
        shards = tuple(shard for done in spread(write_task, self._tasks(counted)) for shard in done)
        _remove_others(storage, folder, {shard.name for shard in shards})
        manifest = Manifest(
            selection=counted.selection,
            samples=counted.samples,
            vocabulary_sha256=vocabulary,
            shards=shards,
            decided=decided,
        )
        write_manifest(storage, folder, manifest)
        return Written(manifest, counted.statistics, columns, changed=True)

    def present(self, storage: Storage, folder: str, samples: Samples) -> Written | None:
        """What is in the folder; None where no finished shards are. Statistics are those of `samples`."""
        manifest = _present(storage, folder)
        if manifest is None:
            return None
        statistics = SampleStatistics()
        for table in samples.kept(samples.units()):
            statistics.add(table, samples.licenses(table), samples.exported)
        return Written(manifest, statistics, shard_columns(samples.exported), changed=False)

    def _count(self, samples: Samples, vocabulary: str) -> _Counted:
        units = list(samples.units())
        num_samples = {split: np.zeros(len(units), np.int64) for split in SPLITS}
        num_bytes = {split: np.zeros(len(units), np.int64) for split in SPLITS}
        settings = self.config.model_dump_json(exclude={"vocabulary"})
        digest = hashlib.sha256(repr((FORMAT, settings, vocabulary, samples.made_by)).encode())
        ids = digest_ids(())
        statistics = SampleStatistics()
        for table in samples.kept(units):
            statistics.add(table, samples.licenses(table), samples.exported)
            places = np.searchsorted(units, table["unit"].to_numpy())
            sizes = estimated_bytes(table)
            for split in SPLITS:
                mine = in_split(split, table["source_id"], self.config)
                num_samples[split] += np.bincount(places[mine], minlength=len(units))
                np.add.at(num_bytes[split], places[mine], sizes[mine])
            digest_table(digest, table.sort_by([("unit", "ascending"), ("sample_id", "ascending")]))
            ids = add_digests(ids, digest_ids(table["sample_id"].to_pylist()))
        selection = digest.hexdigest()[:ID_LENGTH]
        return _Counted(units, num_samples, num_bytes, selection, ids, statistics)

    def _tasks(self, counted: _Counted) -> list[FileTask]:
        of_units = np.sum([counted.num_bytes[split] for split in SPLITS], axis=0)
        groups = shuffle_groups(of_units, self.config.shuffle_bytes)
        return [
            task
            for split in SPLITS
            for task in file_tasks(
                split,
                counted.units,
                groups,
                counted.num_samples[split],
                counted.num_bytes[split],
                self.config.shard_bytes,
            )
        ]


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
