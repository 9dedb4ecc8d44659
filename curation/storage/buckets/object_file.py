"""An object of a bucket as a file: read in ranges, always of the version that was opened."""

from __future__ import annotations

import io
from typing import Any, Protocol

from curation.errors import NoSuchObject
from curation.storage.buckets.retries import OutOfRange

FIRST_BYTES = 1 << 18
"""What opening fetches: the whole of a small object, and of a large one its size."""
READ_AHEAD_BYTES = 1 << 19
"""Fetched at least at a time."""


class Part(Protocol):
    """Some bytes of an object, and what is said of it as a whole: `size` and `e_tag`."""

    @property
    def meta(self) -> Any: ...

    def bytes(self) -> bytes: ...


class Objects(Protocol):
    """Where objects can be read from; both methods raise FileNotFoundError where there is none."""

    def get(self, path: str, *, options: Any = None) -> Part:
        """An object of the version `if_match`, or a `range` of it."""

    def head(self, path: str) -> Any:
        """What is said of an object as a whole."""


class ObjectFile(io.RawIOBase):
    """An object, to read and to seek in. Its methods raise StorageError.

    Attributes:
        name: Its URL.
        size_bytes: Its size.
        etag: Its version.
    """

    def __init__(self, client: Objects, path: str, url: str, etag: str | None = None) -> None:
        """Open an object; `etag` is the version that it must have, if that is known.

        Raises:
            StorageError: there is none, or not of this version.
        """
        self.name = url
        self._client, self._path = client, path
        self._at = 0
        self._held_from = 0
        try:
            found = self._get((0, FIRST_BYTES), etag)
            meta, self._held = found.meta, found.bytes()
        except OutOfRange:
            # An empty object has no range that could be asked for.
            meta, self._held = self._head(), b""
        self.size_bytes: int = meta["size"]
        self.etag: str = meta["e_tag"] or ""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"there is nothing at {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._held_at(len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _held_at(self, num_bytes: int) -> memoryview:
        """Bytes from where the file stands: at least one and at most so many, but for the end."""
        end = min(self._at + num_bytes, self.size_bytes)
        if self._at >= end:
            return memoryview(b"")
        start = self._at - self._held_from
        if not 0 <= start < len(self._held):
            last = min(max(end, self._at + READ_AHEAD_BYTES), self.size_bytes)
            self._held = self._get((self._at, last), self.etag).bytes()
            self._held_from, start = self._at, 0
        return memoryview(self._held)[start : start + end - self._at]

    def _head(self) -> Any:
        try:
            return self._client.head(self._path)
        except FileNotFoundError as error:
            raise NoSuchObject(f"{self.name}: there is no such object") from error

    def _get(self, span: tuple[int, int], etag: str | None) -> Part:
        options: dict[str, Any] = {"range": span} | ({"if_match": etag} if etag else {})
        try:
            return self._client.get(self._path, options=options)
        except FileNotFoundError as error:
            raise NoSuchObject(f"{self.name}: there is no such object") from error
