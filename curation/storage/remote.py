"""What storages behind a network have in common: objects are read in ranges, and hold no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from curation.storage.base import ABSENT, Listed, check_stays_below, ignore
from curation.storage.object_file import ObjectFile, Objects
from curation.storage.scratch import copied


class VersionedObjects(Objects, Protocol):
    """Objects of a remote storage, by their whole paths there."""

    def read(self, path: str) -> tuple[bytes | None, str]:
        """An object and its version; (None, ABSENT) where there is none."""


class RemoteStorage:
    """The reading half of a storage below a prefix. Holds no connection: it can be sent to workers."""

    is_local = False

    def __init__(self, root: str, prefix: str, objects: VersionedObjects) -> None:
        """`prefix`: how the paths of all objects begin, without the slash behind; "" where they are keys."""
        self.root = root
        self._prefix = prefix
        self._objects = objects

    @property
    def prefix(self) -> str:
        """How the paths of all objects begin; "" where they are keys."""
        return self._prefix

    def find(self, key: str) -> Listed | None:
        try:
            found = self._objects.head(self._path(key))
        except FileNotFoundError:
            return None
        return Listed(key, found["size"], found["e_tag"] or ABSENT)

    def open(self, key: str, etag: str | None = None, on_fetch: Callable[[int], None] = ignore) -> IO[bytes]:
        path, url = self._path(key), self._url(key)
        return ObjectFile(self._objects, path, url, etag, on_fetch)  # type: ignore[return-value]

    def leftovers(self, prefix: str) -> tuple[str, ...]:
        return ()

    def read(self, key: str) -> bytes | None:
        return self.read_versioned(key)[0]

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        return self._objects.read(self._path(key))

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        with self.open(key) as file, copied(file) as path:
            yield path

    def _key(self, path: str) -> str:
        """The key of an object below the prefix."""
        return path[len(self._prefix) + 1 :] if self._prefix else path

    def _path(self, key: str) -> str:
        """The whole path of an object. Names that come from data never lead out of the root.

        Raises:
            StorageError: this one would.
        """
        check_stays_below(self.root, key)
        return self._path_of_folder(key)

    def _path_of_folder(self, key: str) -> str:
        """The whole path of a folder that was listed, whatever it is called."""
        return f"{self._prefix}/{key}" if self._prefix and key else self._prefix or key

    def _url(self, key: str) -> str:
        return f"{self.root}/{key}"
