"""Tombstones: what was retracted from an output, so that no later run takes it up again.

    tombstones = read_tombstones(storage)
    tombstones.cover(uris)              # bool [N]
    tombstones.without(container, entries)

They name nothing: a source, or a container with all that is in it, is known by the hash of its URI, and
its bytes by their sha256. A source is retracted whatever its file holds now, since the same picture saved
again has other bytes; the same bytes under another name are only said to be there, since a hash does not
tell who gave them.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from curation.errors import LedgerError
from curation.ingest.locator import CONTAINER_SCHEMES, plain_uri
from curation.records import stable_id
from curation.storage import Storage

TOMBSTONES = "retracted/tombstones.jsonl"
PENDING = "retracted/pending.json"
"""What a retraction that has begun is to do; it is there until all of that is done."""
_IN_CONTAINER = tuple(f"{scheme}://" for scheme in CONTAINER_SCHEMES)


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """What is known of one retracted source or container.

    Attributes:
        id: `name_id` of its URI.
        retracted: When, ISO 8601 in UTC.
        source_ids: Every source that it stood for, older versions and members too.
        content_hashes: sha256 of their bytes, where known.
    """

    id: str
    retracted: str
    source_ids: tuple[str, ...] = ()
    content_hashes: tuple[str, ...] = ()


def name_id(uri: str) -> str:
    """The id by which a tombstone knows a URI, however its path is spelled."""
    return stable_id(plain_uri(uri))


def container_of(uri: str) -> str | None:
    """The URI of the container that a source is in; None for a file."""
    container, separator, _ = uri.partition("#")
    return container if separator and uri.startswith(_IN_CONTAINER) else None


class Tombstones:
    """All tombstones of an output."""

    def __init__(self, stones: Iterable[Tombstone] = ()) -> None:
        self.stones = tuple(stones)
        self._ids = {stone.id for stone in self.stones}

    def __len__(self) -> int:
        return len(self.stones)

    @property
    def content_hashes(self) -> set[str]:
        """sha256 of all bytes that were retracted."""
        return {digest for stone in self.stones for digest in stone.content_hashes}

    @property
    def num_sources(self) -> int:
        """How many sources were retracted; what was retracted before it was ever read counts as one."""
        return sum(max(1, len(stone.source_ids)) for stone in self.stones)

    def covers(self, uri: str) -> bool:
        """Whether a source was retracted, by itself or with its container."""
        if not self._ids:
            return False
        container = container_of(uri)
        return name_id(uri) in self._ids or (container is not None and name_id(container) in self._ids)

    def cover(self, uris: pa.ChunkedArray) -> NDArray[np.bool_]:
        """`covers` of each URI of a column."""
        if not self._ids:
            return np.zeros(len(uris), np.bool_)
        return np.fromiter(map(self.covers, uris.to_pylist()), np.bool_, len(uris))

    def without(self, container: str, entries: pa.Table) -> pa.Table:
        """The entries of a container's listing that neither are nor name what was retracted.

        Args:
            container: The URI of the container.
            entries: Of the schema `ENTRIES`.
        """
        if not self._ids:
            return entries
        names = zip(entries["part"].to_pylist(), entries["path"].to_pylist(), strict=True)
        stays = [not self._covers_entry(container, part, path) for part, path in names]
        return entries if all(stays) else entries.filter(pa.array(stays, pa.bool_()))

    def _covers_entry(self, container: str, part: str, path: str | None) -> bool:
        if self.covers(f"{container}#{part}"):
            return True
        places = () if path is None else _places(container.partition("://")[2], path)
        return any(name_id(place) in self._ids for place in places)


def _places(container: str, path: str) -> Iterator[str]:
    """Where a path in a list may lead to: a file beside the list, or below any folder around it."""
    yield path
    if path.startswith("/"):
        yield posixpath.relpath(path, Path.cwd())
    if path.startswith("/") or "://" in path:
        return
    scheme, separator, folder = container.rpartition("://")
    folder = posixpath.dirname(folder)
    while True:
        yield f"{scheme}{separator}{posixpath.normpath(posixpath.join(folder, path))}"
        if folder in ("", "/"):
            return
        folder = posixpath.dirname(folder)


def read_tombstones(storage: Storage) -> Tombstones:
    """The tombstones of an output, those of a retraction that is not finished among them.

    Raises:
        LedgerError: they can't be read. Nothing goes on without them.
    """
    found = {stone.id: stone for stone in _finished(storage)}
    pending = storage.read(PENDING)
    if pending is not None:
        for stone in parse_tombstones(_json(pending, f"{storage.root}/{PENDING}").get("tombstones"), PENDING):
            found[stone.id] = joined(found.get(stone.id), stone)
    return Tombstones(found.values())


def add_tombstones(storage: Storage, stones: Iterable[Tombstone]) -> None:
    """Keep tombstones, if any; one that is there takes over what is new. For who holds the output alone."""
    found = {stone.id: stone for stone in _finished(storage)}
    for stone in stones:
        found[stone.id] = joined(found.get(stone.id), stone)
    if not found:  # a file without any is taken for one that was emptied
        return
    lines = [json.dumps(asdict(stone)) + "\n" for stone in sorted(found.values(), key=lambda one: one.id)]
    storage.write(TOMBSTONES, "".join(lines).encode())


def joined(known: Tombstone | None, new: Tombstone) -> Tombstone:
    """Two tombstones of one URI as one, with the first one's time."""
    if known is None:
        return new
    return Tombstone(
        id=known.id,
        retracted=known.retracted,
        source_ids=tuple(sorted({*known.source_ids, *new.source_ids})),
        content_hashes=tuple(sorted({*known.content_hashes, *new.content_hashes})),
    )


def parse_tombstones(records: Any, name: str) -> list[Tombstone]:
    """Tombstones as they stand in a file.

    Raises:
        LedgerError: these are none.
    """
    try:
        return TypeAdapter(list[Tombstone]).validate_python(records)
    except ValidationError as error:
        raise _unreadable(name) from error


def _finished(storage: Storage) -> list[Tombstone]:
    name = f"{storage.root}/{TOMBSTONES}"
    data = storage.read(TOMBSTONES)
    if data is None:
        return []
    lines = data.splitlines()
    if not lines:  # it is never written without one
        raise _unreadable(name)
    return parse_tombstones([_json(line, name) for line in lines], name)


def _json(data: bytes, name: str) -> Any:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _unreadable(name) from error
    if not isinstance(found, dict):
        raise _unreadable(name)
    return found


def _unreadable(name: str) -> LedgerError:
    return LedgerError(
        f"{name} can't be read, and without it retracted sources would come back; put its last copy back, "
        "or remove it and retract them again"
    )
