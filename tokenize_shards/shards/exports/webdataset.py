"""Tar files for WebDataset: ID.npy holds a sample's codes, ID.json everything else."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np

from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import Export, Exported, FinishedShards, ShardRow
from curation.tokenize_shards.shards.manifest import SPLITS
from curation.tokenize_shards.shards.rows import grid_of


class WebDatasetExport(Export[StageConfig]):
    """A tar file per shard."""

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        done = Exported()
        for split in SPLITS:
            for number, shard in enumerate(shards.manifest.of_split(split)):
                sink = io.BytesIO()
                with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                    for row in shards.rows(shard):
                        _add_to_tar(tar, row)
                        done.num_samples += 1
                target.write(f"{split}-{number:06d}.tar", sink.getvalue())
                done.num_files += 1
        return done

    def count(self, target: Storage) -> int:
        """Samples of which both files are there."""
        number = 0
        for item in target.list(""):
            with target.open(item.key) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                suffixes: dict[str, set[str]] = {}
                for name in tar.getnames():
                    stem, _, suffix = name.rpartition(".")
                    suffixes.setdefault(stem, set()).add(suffix)
            number += sum(found == {"npy", "json"} for found in suffixes.values())
        return number


def _add_to_tar(tar: tarfile.TarFile, row: ShardRow) -> None:
    codes = io.BytesIO()
    np.save(codes, grid_of(row), allow_pickle=False)
    rest = {name: value for name, value in row.items() if name != "codes"}
    text = json.dumps(rest, ensure_ascii=False, sort_keys=True).encode()
    for suffix, data in (("json", text), ("npy", codes.getvalue())):
        # The time stays 0 and the owner nobody, so that the same samples give the same bytes.
        member = tarfile.TarInfo(f"{row['sample_id']}.{suffix}")
        member.size, member.mode = len(data), 0o644
        tar.addfile(member, io.BytesIO(data))
