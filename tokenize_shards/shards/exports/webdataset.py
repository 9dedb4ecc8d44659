"""Tar files for WebDataset: ID.npy holds a sample's codes, ID.json everything else."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pyarrow as pa

from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import CODES, Export, Exported, FinishedShards, ShardRow
from curation.tokenize_shards.shards.manifest import SPLITS
from curation.tokenize_shards.shards.rows import grid_of


class WebDatasetExport(Export[StageConfig]):
    """A tar file per shard."""

    about = (
        "A tar file per shard: `ID.npy` holds the codes of a sample, uint16 [T, H, W], and `ID.json` "
        "everything else, where what is not known is null."
    )
    usage = (
        "from datasets import load_dataset\n\n"
        'dataset = load_dataset("FOLDER", split="train", streaming=True)\n'
        'next(iter(dataset))["json"]["caption"]'
    )
    data_files = "{split}-*.tar"

    def loaded_schema(self, shard: pa.Schema) -> pa.Schema:
        """The types, for the card: `datasets` would take them from the first five samples of the first file,
        and fail at the first value in a column that is null in all five.
        """
        rest = pa.struct([field for field in shard if field.name != "codes"])
        text = pa.string()
        return pa.schema([("json", rest), ("npy", CODES), ("__key__", text), ("__url__", text)])

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        done = Exported()
        for split in SPLITS:
            for number, shard in enumerate(shards.manifest.of_split(split)):
                sink = io.BytesIO()
                with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                    for row in shards.rows(shard):
                        _add_to_tar(tar, row)
                        done.num_samples += 1
                name = f"{split}-{number:06d}.tar"
                target.write(name, sink.getvalue())
                done.made_of[name] = shard.name
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
