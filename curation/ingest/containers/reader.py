"""What every way of bringing media has in common."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

from curation.errors import EnvironmentFault
from curation.ingest.locator import Locator, part_etag, printable
from curation.ingest.metadata import PROBLEM, SIDECAR_SUFFIXES
from curation.records import MetadataValue, Source, SourceKind, stable_id
from curation.storage import Listed, Storage

MAX_ENTRIES = 1_000_000
"""Media that one container may hold; those behind are not listed, and the container has failed."""
_FREE_METADATA_BYTES = 64 << 20
_METADATA_PER_BYTE = 16
_MAX_METADATA_BYTES = 1 << 30
_VALUE_BYTES = 8
"""What a number counts as."""


@dataclass(frozen=True)
class Folder:
    """One of the configured inputs, listed.

    Attributes:
        root: As the configuration spells it, without a slash at its end.
        items: Every file below it that may be looked at, by key, sorted.
    """

    storage: Storage
    root: str
    items: Mapping[str, Listed]

    def path(self, key: str) -> str:
        """The path of a file below this folder."""
        return f"{self.root}/{key}"

    @cached_property
    def sidecars(self) -> Mapping[str, Mapping[str, Listed]]:
        """Key without suffix -> suffix in lower case -> the file.

        Of NAME.txt and NAME.TXT the one in lower case counts.
        """
        found: dict[str, dict[str, Listed]] = {}
        for key, item in self.items.items():  # sorted, so that lower case comes last
            stem, suffix = posixpath.splitext(key)
            if suffix.lower() in SIDECAR_SUFFIXES:
                found.setdefault(stem, {})[suffix.lower()] = item
        return found


@dataclass(frozen=True)
class Contents:
    """What a file of an input says: the sources that follow from it.

    Attributes:
        sources: The media in it, or that it names, in order.
        num_ignored: What else it holds; a file without media counts as one.
        used: Keys of other files that told something about the sources.
        left_out: What of its metadata could not be kept -> how many times.
        error_type: Name of the error that listing it to its end met.
        error: Why it could not be listed to its end.
    """

    sources: tuple[Source, ...] = ()
    num_ignored: int = 0
    used: frozenset[str] = frozenset()
    left_out: Mapping[str, int] = field(default_factory=dict)
    error_type: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Container:
    """A container as it was found: the storage that it lies in, and what the listing said of it.

    Attributes:
        path: As it stands in URIs.
    """

    storage: Storage
    path: str
    item: Listed


@dataclass(frozen=True, slots=True)
class Entry:
    """One medium in a container, or one file that a container names.

    Attributes:
        part: What stands for it in a URI.
        position: Where it begins: a byte, a row or a line.
        size_bytes: 0 where that is not known.
        path: The file that this stands for, as the container spells it; None for a medium of its own.
    """

    part: str
    kind: SourceKind
    position: int
    size_bytes: int = 0
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    path: str | None = None


@dataclass(frozen=True)
class Inventory:
    """What a container holds, by itself: nothing of it depends on the files around it.

    Attributes: see `Contents`.
    """

    entries: tuple[Entry, ...] = ()
    num_ignored: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    error_type: str | None = None
    error: str | None = None


class Budget:
    """How much a container may bring along: a small file can repeat one long text a million times.

    The limit is 64 MiB and 16 times the size of the file, and at most 1 GiB.
    """

    def __init__(self, size_bytes: int) -> None:
        self.limit_bytes = min(_FREE_METADATA_BYTES + _METADATA_PER_BYTE * size_bytes, _MAX_METADATA_BYTES)
        self._left = self.limit_bytes

    @property
    def is_spent(self) -> bool:
        """Whether the limit has been reached."""
        return self._left < 0

    def allowed(self, metadata: dict[str, MetadataValue]) -> dict[str, MetadataValue]:
        """The metadata, or a word in its place once the limit has been reached."""
        if not self.is_spent:
            self._left -= sum(len(name) + _size_of(value) for name, value in metadata.items())
        if self.is_spent and metadata:
            return {PROBLEM: f"left out: more than {self.limit_bytes >> 20} MiB came with this container"}
        return metadata


def _size_of(value: MetadataValue) -> int:
    if isinstance(value, list):
        return sum(map(len, value))
    return len(value) if isinstance(value, str) else _VALUE_BYTES


def source_in(path: str, item: Listed, scheme: str, entry: Entry) -> Source:
    """A medium in a container as a source."""
    uri = printable(Locator(scheme, path, entry.part).uri)
    return Source(
        source_id=stable_id(uri),
        uri=uri,
        kind=entry.kind,
        size_bytes=entry.size_bytes,
        etag=part_etag(item.etag, entry.position),
        metadata=entry.metadata,
    )


class Reader(Protocol):
    """One way in which media come."""

    scheme: str
    """Of the URIs: "" for plain files."""

    def takes(self, key: str) -> bool:
        """Whether a file of this name is for this reader."""

    def opened(self, source: Source) -> AbstractContextManager[Path]:
        """One of these sources as a file on this machine, while the context lasts.

        Raises:
            ProbeError: it is not there any more, or can't be read.
        """


class ContainerReader(Reader, Protocol):
    """Reads files that hold media, or that name files which do."""

    def list(self, container: Container, on_progress: Callable[[], None]) -> Inventory:
        """What is in it, without looking at a pixel. `on_progress` is called on progress.

        Takes no more memory than `MAX_ENTRIES` and `Budget` allow, whatever the file claims.

        Raises:
            StorageError: the file can't be reached.
        """


@contextmanager
def unnamed_file() -> Iterator[tuple[IO[bytes], Path]]:
    """A file to write to, and a path to read it by. It is gone with this process, however that ends.

    Raises:
        EnvironmentFault: the folder for temporary files takes none.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(TemporaryFile(prefix="curation-"))
        except OSError as error:
            raise EnvironmentFault(f"no temporary file can be made: {error}") from error
        yield file, path_of_handle(file.fileno())


def path_of_handle(handle: int) -> Path:
    """A path to an open file, whatever its name stands for by now."""
    return Path(f"/proc/self/fd/{handle}")
