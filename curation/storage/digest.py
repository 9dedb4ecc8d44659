"""SHA-256 of the files that sources are, and whether a file is still the one that was read.

A file that did not change is read once per process, however often it is asked for: a change shows in
what the file system notes of it, of which no program can set `ctime` at will.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Stamp = tuple[int, ...]
"""Device, inode, size in bytes, last change of the content and of the inode in ns since 1970."""

_SETTLED_NS = 2 * 10**9
"""File systems note times in steps of up to two seconds, so two changes may look like one for so long."""
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
