"""What the pipeline needs of a storage: list, read, and write whole objects or nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from curation.errors import StorageError

ABSENT = ""
"""The version of an object that does not exist."""


def ignore(num_bytes: int) -> None:
    """Counts nothing."""


def check_stays_below(root: str, key: str) -> None:
    """Make sure that a key, which may come from data, leads nowhere else.

    Raises:
        StorageError: it leads out of the root.
    """
    if key.startswith("/") or ".." in key.split("/"):
        raise StorageError(f"{key!r} leads out of {root}")


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing shows it: key relative to the root, size, and a tag that changes with it."""

    key: str
    size_bytes: int
    etag: str


class Storage(Protocol):
    """Objects under one root. Keys are relative paths with `/`.

    Every method raises StorageError when the storage cannot be reached.
    """

    root: str
    """As it was named, without a slash at its end where it is a URL."""
    is_local: bool
    """Whether objects are files of this machine, or of a disk that it has mounted."""

    def list(self, prefix: str) -> list[Listed]:
        """Objects under the folder `prefix` ("" = all), sorted by key. An absent folder is empty."""

    def find(self, key: str) -> Listed | None:
        """One object as a listing shows it, or None where there is none."""

    def open(self, key: str, etag: str | None = None, on_fetch: Callable[[int], None] = ignore) -> IO[bytes]:
        """The object as a file to read and to seek in; a bucket gives the version with that etag.

        `on_fetch` is told how many bytes each request to a bucket brings.

        Raises:
            NoSuchObject: there is none.
            WriteConflict: the bucket has another version.
        """

    def leftovers(self, prefix: str) -> tuple[str, ...]:
        """Keys under `prefix` of what killed writers left half-written, which `list` does not show.

        Empty for storages where an object appears whole or not at all.
        """

    def read(self, key: str) -> bytes | None:
        """The whole object, or None where there is none."""

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        """The object and its version; (None, ABSENT) where there is none."""

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        """Put the object as a whole: readers see the old one or the new one.

        `expect` is the version that must still be there (`ABSENT`: none); None overwrites.

        Raises:
            WriteConflict: another writer was first.
        """

    def creating(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """A file to write an object to, for what is too large to be held; other objects are left as they are.

        The object appears as a whole when the context ends, and not at all if that is by an error. It takes
        the place of the one that is there.
        """

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        """The object as a file on this machine, for decoders, as long as the context lasts."""

    @property
    def compares_versions(self) -> bool:
        """Whether `write` with `expect` is safe against other writers, as far as this process has seen.

        Some buckets know no conditional writes: there only `exclusive` keeps two runs apart.
        """

    def exclusive(self, say: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
        """Hold the root against other runs that would work on it at the same time.

        `say` is told of what takes time, and of a run that has left its hold behind.

        Raises:
            StorageError: another one does, and is named.
        """
