"""The manifest of a folder of shards: which files it holds, and what must be in them.

It is written last, so a folder without one is not finished. Nothing in it depends on when or where it
was made: the same samples, decided by the same settings, give the same manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from curation.errors import DamagedFileError
from curation.pipeline.decision import Decision
from curation.storage import Storage


class Digest(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: Any, /) -> None: ...


MANIFEST = "manifest.json"
SPLITS = ("train", "validation")
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file.

    `num_samples` counts documents, `media_s` is the length of their clips in seconds of video.
    `codebook_use` is that of `vision.codebook`, to six digits, where rows are samples.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[^/]+$")]
    split: str
    num_samples: int
    num_tokens: int
    num_row_groups: int
    media_s: float
    size_bytes: int
    sha256: str
    codebook_use: Mapping[str, int | float] | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
        selection: Digest of samples and settings that the shards were made of.
        samples: `digest_ids` of the sample ids, taken from the ledger before the shards were written.
        vocabulary_sha256: sha256 of the text vocabulary.
        context: Ids of a pack, where rows are packs; None where they are samples.
        shards: In the order of their names.
        decided: The settings that chose the samples; None where an older version wrote the manifest.
    """

    selection: str
    samples: str
    vocabulary_sha256: str
    shards: tuple[Shard, ...]
    context: int | None = None
    decided: Decision | None = None

    @property
    def num_samples(self) -> int:
        """Rows of all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        """Ids of all documents."""
        return sum(shard.num_tokens for shard in self.shards)

    def of_split(self, split: str) -> list[Shard]:
        """The shards of one split."""
        return [shard for shard in self.shards if shard.split == split]


def digest_ids(ids: Iterable[str]) -> str:
    """A digest of a collection of ids that does not depend on their order, but on how often each is there."""
    total = sum(int.from_bytes(hashlib.sha256(name.encode()).digest()) for name in ids)
    return f"{total % 2**256:064x}"


def add_digests(one: str, other: str) -> str:
    """The digest of two collections together."""
    return f"{(int(one, 16) + int(other, 16)) % 2**256:064x}"


def subtract_digests(whole: str, part: str) -> str:
    """The digest of a collection without those of another that are in it."""
    return f"{(int(whole, 16) - int(part, 16)) % 2**256:064x}"


def digest_table(digest: Digest, table: pa.Table) -> None:
    """Feed a table to a digest: equal names and values give an equal digest, however they lie in memory."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name} {column.type} {len(column)}".encode())
        for data in _canonical(column.combine_chunks()):
            digest.update(data)


def _canonical(column: pa.Array) -> Iterator[Any]:
    """Buffers that say what a column holds, and nothing of what lies behind nulls or before offsets."""
    yield np.packbits(column.is_valid().to_numpy(zero_copy_only=False))
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        column = column.fill_null(b"" if pa.types.is_binary(kind) else "")
        _, offsets, data = column.buffers()
        bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        yield np.diff(bounds)
        yield np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    elif pa.types.is_primitive(kind):
        yield np.ascontiguousarray(column.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False))
    else:
        yield json.dumps(column.to_pylist(), default=repr).encode()


def read_manifest(storage: Storage, folder: str) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises:
        DamagedFileError: it is damaged, or of another version of this program.
    """
    key = key_in(folder, MANIFEST)
    data = storage.read(key)
    return None if data is None else parse_manifest(data, f"{storage.root}/{key}")


def parse_manifest(data: bytes, name: str) -> Manifest:
    """The manifest in a JSON text.

    Raises:
        DamagedFileError: `name` is damaged, or of another version of this program.
    """
    try:
        return TypeAdapter(Manifest).validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        why = f"it is no manifest of this version: {problem}"
        raise DamagedFileError.of({name: why}) from error


def digest_object(storage: Storage, key: str) -> str:
    """The SHA-256 of an object, in hex, read a megabyte at a time.

    Raises:
        OSError: it is not there, or can't be read.
    """
    digest = hashlib.sha256()
    with storage.open(key) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_whole(storage: Storage, folder: str, shard: Shard) -> bool:
    """Whether a shard is there, byte for byte as it was written."""
    found = storage.find(key_in(folder, shard.name))
    if found is None or found.size_bytes != shard.size_bytes:
        return False
    return digest_object(storage, key_in(folder, shard.name)) == shard.sha256


def read_decision(storage: Storage, folder: str) -> Decision | None:
    """What the shards in a folder were decided with, as far as that is known.

    A damaged manifest tells nothing: `verify` says so, and the next run writes the shards anew.
    """
    try:
        manifest = read_manifest(storage, folder)
    except DamagedFileError:
        return None
    return None if manifest is None else manifest.decided


def write_manifest(storage: Storage, folder: str, manifest: Manifest) -> None:
    """Put the manifest into its folder, with the totals of each split for people."""
    splits = {name: _totals(manifest.of_split(name)) for name in SPLITS if manifest.of_split(name)}
    record = {"num_samples": manifest.num_samples, "num_tokens": manifest.num_tokens, "splits": splits}
    text = json.dumps({**record, **asdict(manifest)}, indent=2)
    storage.write(key_in(folder, MANIFEST), f"{text}\n".encode())


def _totals(shards: list[Shard]) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    for shard in shards:
        totals.update(num_shards=1, num_samples=shard.num_samples, num_tokens=shard.num_tokens)
    return {**totals, "media_s": round(sum(shard.media_s for shard in shards), 3)}


def key_in(folder: str, name: str) -> str:
    """The key of a file in a folder, which may be the root ("")."""
    return (PurePosixPath(folder) / name).as_posix()
