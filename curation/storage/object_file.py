"""An object behind a network as a file: read in ranges, always of the version that was opened."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from curation.errors import NoSuchObject, StorageError, WriteConflict
from curation.storage.base import ignore

FIRST_BYTES = 1 << 18
"""What opening fetches: the whole of a small object, and of a large one its size."""
READ_AHEAD_BYTES = 1 << 19
"""Fetched at least at a time, where nothing else is said."""
MAX_READ_AHEAD_BYTES = 1 << 22
"""Fetched at most beyond what is asked for."""
_GAP_BYTES = 1 << 16
"""Up to so much may be left out between two reads in one go, such as a header of a tar."""
_MAX_HELD_BYTES = 1 << 24
"""Of ranges that are held, besides the last one: readers go to and fro between an index and the data."""


class OutOfRange(StorageError):
    """The object ends before the range that was asked for."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Some bytes of an object, and what is said of it as a whole: `size` and `e_tag`."""

    meta: Any
    data: bytes


class Objects(Protocol):
    """Where objects can be read from; both methods raise FileNotFoundError where there is none."""

    def get(self, path: str, *, options: Any = None) -> Fetched:
        """An object of the version `if_match`, or a `range` of it."""

    def head(self, path: str) -> Any:
        """What is said of an object as a whole."""


class ObjectFile(io.RawIOBase):
    """An object, to read and to seek in. Its methods raise StorageError.

    Whoever reads on where the last range ended gets up to half as much ahead as was read in one go, so that
    little is fetched in vain of a part, and few requests are made for the whole.

    Attributes:
        name: Its URL.
        failure: The first error that a method raised; for callers whose libraries lose exceptions.
        until: Nobody reads behind this byte, as far as is known, so that nothing is fetched ahead there.
    """

    def __init__(
        self,
        client: Objects,
        path: str,
        url: str,
        etag: str | None = None,
        on_fetch: Callable[[int], None] = ignore,
    ) -> None:
        """Open an object; without an `etag` the version that is there now, and that must be there.

        With one nothing is asked of the bucket before it is read. `on_fetch` is told how many bytes each
        request brings.

        Raises:
            StorageError: there is none.
        """
        self.name = url
        self.failure: Exception | None = None
        self.until: int | None = None
        self.read_ahead_bytes = READ_AHEAD_BYTES
        self._client, self._path, self._etag = client, path, etag
        self._on_fetch = on_fetch
        self._at = 0
        self._size_bytes: int | None = None
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._sequence_from = self._sequence_until = 0
        if etag is None:
            self._fetch(0, FIRST_BYTES)

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return self._ask_for_size() if self._size_bytes is None else self._size_bytes

    @property
    def etag(self) -> str:
        """Its version."""
        return self._etag or ""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = 0
        if whence != io.SEEK_SET:
            start = self._at if whence == io.SEEK_CUR else self.size_bytes
        if start + offset < 0:
            raise ValueError(f"there is nothing at {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        # Arrow takes what comes first for all that there is.
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and (data := self._read(len(view) - done)):
            view[done : done + len(data)] = data
            done += len(data)
            self._at += len(data)
        return done

    def _read(self, num_bytes: int) -> memoryview:
        """Bytes from where the file stands: at least one and at most so many, but for the end."""
        end = self._at + num_bytes
        if self._size_bytes is not None:
            end = min(end, self._size_bytes)
        if self._at >= end:
            return memoryview(b"")
        found = self._held_at(self._at)
        if found is None:
            self._fetch(self._at, self._end_of_request(end))
            found = self._held_at(self._at)
        if found is None:
            return memoryview(b"")
        return found[: end - self._at]

    def _held_at(self, place: int) -> memoryview | None:
        """What is held from a place on."""
        for start, data in self._held.items():
            if start <= place < start + len(data):
                self._held.move_to_end(start)
                return memoryview(data)[place - start :]
        return None

    def _end_of_request(self, end: int) -> int:
        """Where the request ends that fetches from where the file stands up to `end` at least."""
        is_next = self._sequence_from < self._sequence_until <= self._at <= self._sequence_until + _GAP_BYTES
        self._sequence_from = self._sequence_from if is_next else self._at
        ahead = max(self.read_ahead_bytes, (self._at - self._sequence_from) // 2)
        last = max(end, self._at + min(ahead, MAX_READ_AHEAD_BYTES))
        for limit in (self.until, self._size_bytes):
            if limit is not None:
                last = max(end, min(last, limit))
        return last

    def _fetch(self, start: int, end: int) -> None:
        """Hold a range of the object; nothing if it ends before."""
        try:
            found = self._get((start, end))
        except OutOfRange:
            # So it is, too, of an empty object.
            self._ask_for_size()
            return
        self._size_bytes = found.meta["size"]
        self._etag = self._etag or found.meta["e_tag"]
        data = found.data
        self._hold(start, data)
        self._sequence_until = start + len(data)

    def _hold(self, start: int, data: bytes) -> None:
        while self._held and len(data) + sum(map(len, self._held.values())) > _MAX_HELD_BYTES:
            self._held.popitem(last=False)
        self._held[start] = data

    def _ask_for_size(self) -> int:
        with self._failing():
            meta = self._client.head(self._path)
            if self._etag not in (None, meta["e_tag"]):
                raise WriteConflict(f"{self.name} was written by someone else")
        self._size_bytes = int(meta["size"])
        self._etag = meta["e_tag"]
        return self._size_bytes

    def _get(self, span: tuple[int, int]) -> Fetched:
        options: dict[str, Any] = {"range": span} | ({"if_match": self._etag} if self._etag else {})
        with self._failing():
            found = self._client.get(self._path, options=options)
        self._on_fetch(len(found.data))
        return found

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Remember the error that this object ends with."""
        try:
            yield
        except OutOfRange:
            raise
        except FileNotFoundError as error:
            self.failure = NoSuchObject(f"{self.name}: there is no such object")
            raise self.failure from error
        except StorageError as error:
            self.failure = error
            raise
