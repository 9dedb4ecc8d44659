"""SHA-256 of the files that sources are, and whether a file is still the one that was read.

A file that did not change is read once per process, however often it is asked for: a change shows in
what the file system notes of it, of which no program can set `ctime` at will.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Stamp = tuple[int, ...]
"""Device, inode, size in bytes, last change of the content and of the inode in ns since 1970."""

_SETTLED_NS = 2 * 10**9
"""File systems note times in steps of up to two seconds, so two changes may look like one for so long."""
_BLOCK_BYTES = 1 << 22
_SKIPPED_BYTES = 1 << 24
"""What is passed over in one go, such as sound between pictures, is read all the same. An index at the end of
a large file lies farther away."""
_MAX_KNOWN = 4096
_KNOWN: OrderedDict[Stamp, str] = OrderedDict()
_OWN: dict[Stamp, str] = {}
"""Of files that nobody else can write to."""


def stamp_of(path: Path) -> Stamp:
    """What changes whenever the file does.

    Raises:
        OSError: it can't be reached.
    """
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def known_digest(path: Path, digest: str) -> Iterator[None]:
    """Let `digest_of` know a file that nobody else can write to, as long as the context lasts."""
    stamp = stamp_of(path)
    _OWN[stamp] = digest
    try:
        yield
    finally:
        del _OWN[stamp]


def digest_of(path: Path, on_read: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file's bytes, in hex; `on_read` is told how many bytes are read for it, if any.

    Raises:
        OSError: it can't be read.
    """
    stamp = stamp_of(path)
    if (known := _OWN.get(stamp) or _KNOWN.get(stamp)) is not None:
        return known
    is_settled = time.time_ns() - stamp[-1] > _SETTLED_NS
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if on_read is not None:
        on_read(stamp[2])
    if is_settled and stamp_of(path) == stamp:
        _KNOWN[stamp] = digest
        if len(_KNOWN) > _MAX_KNOWN:
            _KNOWN.popitem(last=False)
    return digest


class HashedFile(io.RawIOBase):
    """A file that somebody reads nearly in order, hashed as it is read.

    So a video that is read in ranges is not fetched once for its packets and once more for its hash.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._num_hashed = 0
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        start = self._file.tell()
        if self._num_hashed < start <= self._num_hashed + _SKIPPED_BYTES:
            self._hash_up_to(start)
            self._file.seek(start)
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        if start <= self._num_hashed < start + len(data):
            self._add(data[self._num_hashed - start :])
        return len(data)

    def digest(self) -> str:
        """The SHA-256 of all bytes, in hex; what nobody has come to is read now.

        Raises: what reading has raised before, or does now.
        """
        failure = getattr(self._file, "failure", None)
        if failure is not None:
            raise failure
        self._hash_up_to(self._file.seek(0, io.SEEK_END))
        return self._hash.hexdigest()

    def _hash_up_to(self, end: int) -> None:
        self._file.seek(self._num_hashed)
        while data := self._file.read(min(_BLOCK_BYTES, end - self._num_hashed)):
            self._add(data)

    def _add(self, data: bytes) -> None:
        self._hash.update(data)
        self._num_hashed += len(data)


class Watch:
    """Holds an open file against what it was when the watch began."""

    def __init__(self, path: Path, content_hash: str | None) -> None:
        """`content_hash` is what the file must have, if that is known."""
        self._path = path
        self._content_hash = content_hash
        self._stamp = stamp_of(path)

    def is_unchanged(self) -> bool:
        """Whether the bytes are still the same. That its name was removed or given away changes none."""
        stamp = stamp_of(self._path)
        if stamp == self._stamp:
            return True
        if self._content_hash is not None:
            is_same = digest_of(self._path) == self._content_hash
        else:
            is_same = stamp[:-1] == self._stamp[:-1]
        if is_same:
            self._stamp = stamp
        return is_same
