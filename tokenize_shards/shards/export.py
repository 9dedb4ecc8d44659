"""Copies shards into the layouts that others read; what was written is read again and counted.

emu3        Emu3's fine-tuning code: a .pth per image and a JSON list per split; it knows no clips
webdataset  tar files of ID.npy (codes) and ID.json (everything else)
datasets    Parquet for `datasets.load_dataset(DIR)`, with `input_ids` and nested `codes`
packed      packs of whole documents, for `tokenize_shards.shards.loader`
"""

from __future__ import annotations

import difflib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from curation.errors import ConfigError, StorageError
from curation.storage import Storage, open_storage
from tokenize_shards.shards.manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    Shard,
    add_digests,
    digest_ids,
    read_manifest,
    write_manifest,
)
from tokenize_shards.shards.rows import PACK_SCHEMA, REPEATED, SCHEMA, document_of, grid_of
from tokenize_shards.shards.shardfile import ShardFile
from tokenize_shards.shards.stream import ShardStream

Row = dict[str, Any]


@dataclass
class Exported:
    """What an export wrote. `left_out` says why a sample is not in it, and of how many this is true."""

    num_samples: int = 0
    num_files: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Job:
    """An export: from where to where."""

    folder: str
    source: Storage
    manifest: Manifest
    target: Storage
    context: int

    def rows(self, shard: Shard) -> Iterator[Row]:
        """The rows of a shard, a row group in memory at a time."""
        try:
            with self.source.open(shard.name) as file:
                parquet = pq.ParquetFile(pa.PythonFile(file), pre_buffer=False)
                for index in range(parquet.num_row_groups):
                    yield from parquet.read_row_group(index, use_threads=False).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{self.folder}/{shard.name} can't be read: {error}") from error


def export(name: str, folder: str, to: str, *, context: int = 5120) -> Exported:
    """Write the shards in `folder` into the empty folder `to`.

    Raises:
        ConfigError: there is no such format, no finished shards, or something in `to` already.
        StorageError: what was written is not all there, or a shard is damaged.
    """
    if name not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(FORMATS)}"
        raise ConfigError(f"there is no format {name!r}; {hint}")
    source, target = open_storage(folder), open_storage(to)
    manifest = read_manifest(source, "")
    if manifest is None:
        raise ConfigError(f"{folder} holds no finished shards: there is no {MANIFEST} in it")
    if manifest.context is not None:
        raise ConfigError(f"{folder} is packed; export the shards that it was made from")
    if target.list(""):
        raise ConfigError(f"{to} is not empty; an export goes into a folder of its own")
    write, count = FORMATS[name]
    done = write(Job(folder, source, manifest, target, context))
    found = count(target)
    if found != done.num_samples:
        raise StorageError(f"{to} holds {found} samples, {done.num_samples} were written")
    if done.num_samples + done.left_out.total() != manifest.num_samples:
        raise StorageError(f"{folder} is not as its {MANIFEST} says; `curation verify` tells more")
    return done


def _write_emu3(job: Job) -> Exported:
    import torch

    done = Exported()
    for split in SPLITS:
        paths = []
        for number, shard in enumerate(job.manifest.of_split(split)):
            for row in job.rows(shard):
                if row["kind"] != "image":
                    done.left_out["clips, which the layout has no place for"] += 1
                    continue
                codes = torch.from_numpy(grid_of(row)[0].astype(np.int64))
                sink = io.BytesIO()
                torch.save({"name": row["sample_id"], "images": codes, "texts": row["caption"]}, sink)
                paths.append(f"{split}/{number:05d}/{row['sample_id']}.pth")
                job.target.write(paths[-1], sink.getvalue())
        if paths:
            listed = {"prefix": job.target.root, "path_list": paths}
            job.target.write(f"{split}.json", (json.dumps(listed, indent=1) + "\n").encode())
            done.num_files += len(paths) + 1
            done.num_samples += len(paths)
    return done


def _count_emu3(target: Storage) -> int:
    """Files that are listed and there, each with the three things that belong in it."""
    import torch

    number = 0
    for split in SPLITS:
        data = target.read(f"{split}.json")
        for path in json.loads(data)["path_list"] if data else ():
            with target.open(path) as file:
                sample = torch.load(file, weights_only=True)
            number += sample.keys() == {"name", "images", "texts"}
    return number


def _write_webdataset(job: Job) -> Exported:
    done = Exported()
    for split in SPLITS:
        for number, shard in enumerate(job.manifest.of_split(split)):
            sink = io.BytesIO()
            with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for row in job.rows(shard):
                    _add_to_tar(tar, row)
                    done.num_samples += 1
            job.target.write(f"{split}-{number:06d}.tar", sink.getvalue())
            done.num_files += 1
    return done


def _add_to_tar(tar: tarfile.TarFile, row: Row) -> None:
    codes = io.BytesIO()
    np.save(codes, grid_of(row), allow_pickle=False)
    rest = {name: value for name, value in row.items() if name != "codes"}
    text = json.dumps(rest, ensure_ascii=False, sort_keys=True).encode()
    for suffix, data in (("json", text), ("npy", codes.getvalue())):
        # The time stays 0 and the owner nobody, so that the same samples give the same bytes.
        member = tarfile.TarInfo(f"{row['sample_id']}.{suffix}")
        member.size, member.mode = len(data), 0o644
        tar.addfile(member, io.BytesIO(data))


def _count_webdataset(target: Storage) -> int:
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


_DATASETS_SCHEMA = SCHEMA.set(
    SCHEMA.get_field_index("codes"), pa.field("codes", pa.list_(pa.list_(pa.list_(pa.uint16()))))
).append(pa.field("input_ids", pa.list_(pa.int32())))


def _write_datasets(job: Job) -> Exported:
    done = Exported()
    for split in SPLITS:
        shards = job.manifest.of_split(split)
        for number, shard in enumerate(shards):
            name = f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            file = ShardFile(name, split, _DATASETS_SCHEMA, REPEATED)
            for index, row in enumerate(job.rows(shard)):
                if index % 1000 == 999:
                    file.end_row_group()
                own = {"codes": grid_of(row).tolist(), "input_ids": document_of(row)}
                file.add({**row, **own}, media_s=0.0)
            done.num_samples += file.write(job.target, "data").num_samples
            done.num_files += 1
    job.target.write("README.md", _datasets_card(job.manifest).encode())
    return done


def _datasets_card(manifest: Manifest) -> str:
    """The header in which `datasets` finds the splits."""
    files = [
        {"split": split, "path": f"data/{split}-*.parquet"} for split in SPLITS if manifest.of_split(split)
    ]
    header = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]}, sort_keys=False)
    return f"---\n{header}---\n\n{manifest.num_samples} samples, {manifest.num_tokens} tokens.\n"


def _write_packed(job: Job) -> Exported:
    done = Exported()
    shards: list[Shard] = []
    samples = digest_ids(())
    for split in SPLITS:
        number = len(job.manifest.of_split(split))
        if number:
            stream = ShardStream(job.folder, split=split, context=job.context)
            for packed in _packed_shards(job, stream, split, number):
                shards.append(packed[0])
                samples = add_digests(samples, packed[1])
            done.left_out[f"documents longer than {job.context} ids"] += stream.fill.num_too_long
    manifest = Manifest(
        selection=f"{job.manifest.selection}-packed-{job.context}",
        samples=samples,
        vocabulary_sha256=job.manifest.vocabulary_sha256,
        shards=tuple(shards),
        context=job.context,
    )
    write_manifest(job.target, "", manifest)
    done.num_samples, done.num_files = manifest.num_samples, len(shards) + 1
    return done


def _packed_shards(job: Job, stream: ShardStream, split: str, number: int) -> Iterator[tuple[Shard, str]]:
    """Up to `number` shards of a split, and the digests of the samples in them."""
    num_packs = stream.count_packs()
    each = max(1, -(-num_packs // number))
    number = -(-num_packs // each)
    packs = iter(stream)
    for index in range(number):
        file = ShardFile(f"{split}-{index:05d}-of-{number:05d}.parquet", split, PACK_SCHEMA, ())
        names: list[str] = []
        for place in range(min(each, num_packs - index * each)):
            example = next(packs)
            if place % 500 == 499:
                file.end_row_group()
            file.add(
                _packed_row(example.pack.input_ids, example.pack.cu_seqlens, example.sample_ids), media_s=0.0
            )
            names += example.sample_ids
        yield file.write(job.target, ""), digest_ids(names)


def _packed_row(input_ids: Any, cu_seqlens: Any, sample_ids: tuple[str, ...]) -> Row:
    bounds = cu_seqlens[: len(sample_ids) + 1]
    return {
        "sample_ids": list(sample_ids),
        "input_ids": input_ids[: bounds[-1]],
        "lengths": np.diff(bounds),
        "num_tokens": int(bounds[-1]),
    }


def _count_parquet(target: Storage) -> int:
    """Samples in the Parquet files, in rows or in packs."""
    number = 0
    for item in target.list(""):
        if item.key.endswith(".parquet"):
            with target.open(item.key) as file:
                parquet = pq.ParquetFile(pa.PythonFile(file))
                if "sample_ids" in parquet.schema_arrow.names:
                    lists = parquet.read(["sample_ids"])["sample_ids"].to_pylist()
                    number += sum(map(len, lists))
                else:
                    number += parquet.metadata.num_rows
    return number


FORMATS: Mapping[str, tuple[Callable[[Job], Exported], Callable[[Storage], int]]] = {
    "emu3": (_write_emu3, _count_emu3),
    "webdataset": (_write_webdataset, _count_webdataset),
    "datasets": (_write_datasets, _count_parquet),
    "packed": (_write_packed, _count_parquet),
}
"""By name: what writes a format, and what counts the samples that lie there."""
