"""A storage that is only read, some objects of which may be given other contents.

    storage = ReadOnlyStorage(open_storage(root), {"listing/present.parquet": data})

Who asks what a run would do reads the output through it: as it stands, with the listing of now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from curation.errors import ContractError
from curation.storage.base import ABSENT, Listed, Storage, ignore


class ReadOnlyStorage:
    """Reads from another storage; whatever would change it is a mistake of the caller."""

    def __init__(self, storage: Storage, contents: Mapping[str, bytes] | None = None) -> None:
        """`contents` are objects that read otherwise than in `storage`; listings do not show them."""
        self.root, self.is_local = storage.root, storage.is_local
        self._storage = storage
        self._contents = contents or {}

    def list(self, prefix: str) -> list[Listed]:
        return self._storage.list(prefix)

    def find(self, key: str) -> Listed | None:
        return self._storage.find(key)

    def open(self, key: str, etag: str | None = None, on_fetch: Callable[[int], None] = ignore) -> IO[bytes]:
        return self._storage.open(key, etag, on_fetch)

    def leftovers(self, prefix: str) -> tuple[str, ...]:
        return self._storage.leftovers(prefix)

    def read(self, key: str) -> bytes | None:
        return self._contents[key] if key in self._contents else self._storage.read(key)

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        return (self._contents[key], ABSENT) if key in self._contents else self._storage.read_versioned(key)

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        return self._storage.local_path(key)

    @property
    def compares_versions(self) -> bool:
        return self._storage.compares_versions

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        raise self._refusal(key)

    def creating(self, key: str) -> AbstractContextManager[IO[bytes]]:
        raise self._refusal(key)

    def delete(self, key: str) -> None:
        raise self._refusal(key)

    def exclusive(self, say: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
        raise self._refusal("")

    def _refusal(self, key: str) -> ContractError:
        return ContractError(f"{self.root}/{key} is to be read only")
