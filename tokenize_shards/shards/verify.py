"""Checks a folder of shards against its manifest, and the shards against the rules that they follow.

Everything is read and everything is said: a damaged shard does not hide what is wrong with the next.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.errors import LedgerError, TokenizeError
from curation.ingest.leftovers import some_names
from curation.ledger.absent import Absent
from curation.report.cards.croissant import digests_in
from curation.storage import Storage
from curation.tokenize_shards.documents.document import parse
from curation.tokenize_shards.shards.manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    Shard,
    digest_ids,
    key_in,
    read_manifest,
)
from curation.tokenize_shards.shards.rows import PACK_SCHEMA, document_of, follows_layout, grid_of

CROISSANT = "croissant.json"
COMPANIONS = frozenset({MANIFEST, "README.md", CROISSANT, "export.json", "LICENSE"})
"""Files that may lie beside the shards."""
_NAME = re.compile(rf"({'|'.join(SPLITS)})-(\d{{5,}})-of-(\d{{5,}})\.parquet$")

_MENDS = "`curation run` writes the shards anew"


@dataclass
class Verification:
    """What was found: problems in plain words, and how much was sound."""

    problems: list[str] = field(default_factory=list)
    num_shards: int = 0
    num_samples: int = 0
    num_tokens: int = 0


def is_shard_name(name: str) -> bool:
    """Whether a file is called like a shard."""
    return _NAME.match(name) is not None


def verify(storage: Storage, folder: str, absent: Absent | None = None) -> Verification:
    """Check files, digests, rows, documents, splits, and that each planned sample is there once.

    Args:
        storage: Where the shards are.
        folder: Their folder there.
        absent: Sources that must not be in the shards any more, as far as that is known.

    Raises:
        StorageError: the storage can't be reached.
    """
    found = Verification()
    try:
        manifest = read_manifest(storage, folder)
    except LedgerError as error:
        found.problems.append(str(error))
        return found
    if manifest is None:
        found.problems.append(f"{MANIFEST} is missing: the shards are not finished, or these are none")
        return found
    found.problems += _wrong_files(storage, folder, manifest)
    found.problems += _wrong_croissant(storage, folder, manifest)
    samples: list[list[str]] = []
    sources: list[set[str]] = []
    schemas: list[pa.Schema] = []
    for shard in manifest.shards:
        data = storage.read(key_in(folder, shard.name))
        if data is None:
            continue  # named among the wrong files
        contents = _read_shard(shard, data, manifest.context, found.problems)
        if contents is not None:
            samples.append(contents.sample_ids)
            sources.append(contents.source_ids)
            schemas.append(contents.schema)
            found.num_shards += 1
            found.num_samples += shard.num_samples
            found.num_tokens += shard.num_tokens
    if any(not schema.equals(schemas[0]) for schema in schemas):
        found.problems.append("the shards have different columns: some are of another recipe")
    # Ids of shards that can't be read would be reported as missing a second time.
    if found.num_shards == len(manifest.shards):
        found.problems += _wrong_samples(manifest, samples)
        found.problems += _wrong_sources(manifest, sources)
    found.problems += _absent_sources(set().union(*sources), absent or Absent())
    return found


def _wrong_files(storage: Storage, folder: str, manifest: Manifest) -> Iterator[str]:
    named = {shard.name for shard in manifest.shards}
    present = {str(PurePosixPath(item.key).relative_to(folder or ".")) for item in storage.list(folder)}
    yield from (f"{name} is missing" for name in sorted(named - present))
    yield from (f"{name} is not in {MANIFEST}" for name in sorted(present - named - COMPANIONS))
    for key in storage.leftovers(folder):
        yield f"{PurePosixPath(key).relative_to(folder or '.')} is a half-written file of a killed run"
    for split in SPLITS:
        names = [shard.name for shard in manifest.of_split(split)]
        if names != [f"{split}-{index:05d}-of-{len(names):05d}.parquet" for index in range(len(names))]:
            yield f"the {split} shards in {MANIFEST} are not numbered from 0 to {len(names) - 1}"


def _wrong_croissant(storage: Storage, folder: str, manifest: Manifest) -> Iterator[str]:
    """Shards need no croissant.json; one that is there must describe them, or a loader refuses them."""
    data = storage.read(key_in(folder, CROISSANT))
    named = {shard.name: shard.sha256 for shard in manifest.shards}
    if data is not None and digests_in(data.decode(errors="replace")) != named:
        yield f"{CROISSANT} describes other shards; `curation run` writes it anew"


@dataclass(frozen=True)
class _Contents:
    sample_ids: list[str]
    source_ids: set[str]
    schema: pa.Schema


def _read_shard(shard: Shard, data: bytes, context: int | None, problems: list[str]) -> _Contents | None:
    """Ids of a shard's samples and sources; None if it is damaged."""
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        size = "" if len(data) == shard.size_bytes else f", {len(data)} bytes instead of {shard.size_bytes}"
        problems.append(f"{shard.name} is damaged: its sha256 is not the one in {MANIFEST}{size}")
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        schema = file.schema_arrow
        if not (follows_layout(schema) if context is None else schema.equals(PACK_SCHEMA)):
            problems.append(f"{shard.name} has other columns than this version writes")
            return None
        return _read_rows(shard, file, context, problems)
    except (pa.ArrowException, OSError) as error:
        problems.append(f"{shard.name} is no readable Parquet file: {error}")
        return None


def _read_rows(shard: Shard, file: pq.ParquetFile, context: int | None, problems: list[str]) -> _Contents:
    wrong: list[str] = []
    totals: Counter[str] = Counter()
    media_s = 0.0
    sample_ids: list[str] = []
    source_ids: set[str] = set()
    for index in range(file.num_row_groups):
        for row in file.read_row_group(index, use_threads=False).to_pylist():
            names = [row["sample_id"]] if context is None else row["sample_ids"]
            totals.update(num_samples=len(names), num_tokens=row["num_tokens"])
            sample_ids += names
            if context is None:
                media_s += (row["end_s"] or 0.0) - (row["start_s"] or 0.0)
                source_ids.add(row["source_id"])
            about = _wrong_row(row, shard.split) if context is None else _wrong_pack(row, context)
            wrong += (f"{', '.join(names)}: {what}" for what in about)
    for name in ("num_samples", "num_tokens"):
        if totals[name] != getattr(shard, name):
            said = getattr(shard, name)
            problems.append(f"{shard.name} has {name} {totals[name]}, {MANIFEST} says {said}")
    if abs(media_s - shard.media_s) > 1e-3:
        problems.append(f"{shard.name} has media_s {media_s:.3f}, {MANIFEST} says {shard.media_s}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        problems.append(f"{shard.name}: {wrong[0]}{more}")
    return _Contents(sample_ids, source_ids, file.schema_arrow)


def _wrong_row(row: dict[str, Any], split: str) -> Iterator[str]:
    if row["split"] != split:
        yield f"is of the {row['split']} split"
    try:
        ids = document_of(row)
        document = parse(ids)
    except TokenizeError as error:
        yield f"is no document: {error}"
        return
    if (document.caption_ids, document.meta_ids) != (row["text_ids"], row["meta_ids"]):
        yield "gives other text ids back than it has"
    if not np.array_equal(document.grid, grid_of(row)):
        yield "gives another token grid back than it has"
    if len(ids) != row["num_tokens"]:
        yield f"has {len(ids)} tokens, its row says {row['num_tokens']}"


def _wrong_pack(row: dict[str, Any], context: int) -> Iterator[str]:
    ids, lengths = np.array(row["input_ids"], np.int32), row["lengths"]
    if not len(ids) == sum(lengths) == row["num_tokens"] <= context:
        yield f"{len(ids)} ids, lengths of {sum(lengths)}, num_tokens {row['num_tokens']}, context {context}"
        return
    if len(lengths) != len(row["sample_ids"]):
        yield f"{len(lengths)} documents of {len(row['sample_ids'])} samples"
    for document in np.split(ids, np.cumsum(lengths)[:-1]):
        try:
            parse(document)
        except TokenizeError as error:
            yield f"is no document: {error}"


def _wrong_samples(manifest: Manifest, shards: list[list[str]]) -> Iterator[str]:
    ids = np.array([name for shard in shards for name in shard], dtype=np.bytes_)
    names, counts = np.unique(ids, return_counts=True)
    for name, count in zip(names[counts > 1], counts[counts > 1], strict=True):
        yield f"sample {name.decode()} is there {count} times"
    if digest_ids(name for shard in shards for name in shard) != manifest.samples:
        yield f"the samples are not those of {MANIFEST}: some are missing, there twice, or of another run"


def _wrong_sources(manifest: Manifest, shards: list[set[str]]) -> Iterator[str]:
    of_split: dict[str, set[str]] = {}
    for shard, sources in zip(manifest.shards, shards, strict=True):
        of_split.setdefault(shard.split, set()).update(sources)
    shared = of_split.get("train", set()) & of_split.get("validation", set())
    if shared:
        yield f"{len(shared)} sources are in both splits, such as {min(shared)}"


def _absent_sources(present: set[str], absent: Absent) -> Iterator[str]:
    """Sound shards may be out of date: the inputs have changed since they were written."""
    gone = sorted(absent.gone[source_id] for source_id in present & absent.gone.keys())
    replaced = present & absent.replaced
    if gone:
        yield f"out of date: {len(gone)} sources are gone from the inputs: {some_names(gone)}; {_MENDS}"
    if replaced:
        yield f"out of date: the files of {len(replaced)} sources ({min(replaced)}) were replaced; {_MENDS}"
