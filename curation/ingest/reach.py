"""Tells a file that has gone from an input that is away, such as a mount that drops out for a while.

    watch_inputs(["/mnt/photos"])           # once, in a process that works on the sources of a run
    handle = reached("/mnt/photos/a/b.jpg", lambda: os.open(...))
    storage = InputStorage(open_storage("/mnt/photos/a"))       # the same for all that a reader opens

A file has gone if others can be opened where it was: below its folder or, if that was removed, below the
nearest folder that is left. One that may not be read is alone in this if any other file of the input may be.
Otherwise the input is away: the attempt is repeated for a few seconds, and then the run stops.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

from curation.errors import ChangedError, ProbeError, StorageError, WriteConflict
from curation.errors.isolation import machine_fault
from curation.storage import Listed, Storage, open_storage

T = TypeVar("T")

CHANGED = "it was changed since it was listed; the next run takes it up anew"
_WAITS_S = (0.5, 1.0, 2.0)
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_UNREACHABLE = _FORBIDDEN | frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ENODEV,
        errno.ENXIO,
        errno.EHOSTDOWN,
        errno.ETIMEDOUT,
    }
)
"""What is said of a file that has gone, and of every file of an input that is away."""
_MAX_FOLDERS = 64
_MAX_ENTRIES = 64
"""Of so many folders so many entries each are looked at, in search of a file that can be opened."""
_ROOTS: list[str] = []
"""The inputs of the run that this process works for."""


def watch_inputs(roots: Iterable[str]) -> None:
    """Tell gone from away below these inputs, as the configuration spells them, from now on."""
    _ROOTS[:] = [open_storage(root).root for root in roots]


def reached(path: str, attempt: Callable[[], T]) -> T:
    """What `attempt` gives of a file; it is repeated while the file's input is away.

    `attempt` gives None, or raises an OSError or a StorageError made of one, where the file isn't there or
    can't be opened. If the file alone has gone, that is what comes back.

    Raises:
        StorageError: the input stays away.
    """
    root = _root_of(path)
    if root is None:
        return attempt()
    for wait_s in (*_WAITS_S, None):
        try:
            found = attempt()
        except (OSError, StorageError) as error:
            code = _code_of(error)
            if code not in _UNREACHABLE:
                raise
        else:
            if found is not None:
                return found
            code = errno.ENOENT
        if not _is_away(root, path, code):
            break
        if wait_s is None:
            raise StorageError(f"input {root} is away: neither {path} nor any file near it can be opened")
        time.sleep(wait_s)
    return attempt()


def _root_of(path: str) -> str | None:
    """The input that a file lies in."""
    return next((root for root in _ROOTS if path.startswith(f"{root.rstrip('/')}/")), None)


def _code_of(error: OSError | StorageError) -> int | None:
    cause = error if isinstance(error, OSError) else error.__cause__
    return cause.errno if isinstance(cause, OSError) else None


def _is_away(root: str, path: str, code: int | None) -> bool:
    """Whether nothing else can be opened where a file was, so that the input is to blame."""
    for folder in _folders_above(path, root):
        if any(map(_can_be_opened, _files_below(folder))):
            return False
        if code not in _FORBIDDEN and os.path.isdir(folder):  # noqa: PTH112  paths are text here, as in URIs
            return True
    return True


def _folders_above(path: str, root: str) -> Iterator[str]:
    """The folder of a file, the one that this lies in, and so on up to the input."""
    folder = os.path.dirname(path)  # noqa: PTH120
    while len(folder) >= len(root.rstrip("/")) and folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _files_below(top: str) -> Iterator[str]:
    """Some of the files below a folder that a listing would find."""
    waiting = [top]
    for _ in range(_MAX_FOLDERS):
        if not waiting:
            return
        entries = _entries_of(waiting.pop())
        yield from (entry.path for entry in entries if entry.is_file())
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _entries_of(folder: str) -> list[os.DirEntry[str]]:
    """The first entries of a folder; none if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in islice(entries, _MAX_ENTRIES) if not entry.name.startswith(".")]
    except OSError as error:
        if error.errno not in _UNREACHABLE:
            raise
        return []


def _can_be_opened(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno not in _UNREACHABLE:
            raise
        return False
    return True


class ByteCount:
    """Counts what threads fetch of buckets."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._taken = 0
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        """Count the bytes of one answer."""
        with self._lock:
            self.num_bytes += num_bytes

    def take(self) -> int:
        """Bytes since this was asked last."""
        with self._lock:
            number, self._taken = self.num_bytes - self._taken, self.num_bytes
        return number


FETCHED = ByteCount()
"""All that this process has fetched of inputs in buckets."""


class InputStorage:
    """A folder of an input, to read from. What is not there has gone; while the input is away, it waits.

    A bucket says itself which of the two it is, and its storage waits by itself.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._prefix = f"{storage.root.rstrip('/')}/"
        self.root = storage.root
        self.is_local = storage.is_local

    def find(self, key: str) -> Listed | None:
        """One object as a listing shows it, or None where there is none."""
        return self._reached(key, partial(self._storage.find, key))

    def open(self, key: str, etag: str | None = None) -> IO[bytes]:
        """The object as a file to read and to seek in; of a bucket, the version with that etag.

        Raises:
            WriteConflict: the bucket has another version.
            StorageError: there is none.
        """
        return self._reached(key, partial(self._storage.open, key, etag, FETCHED.add))

    def read(self, key: str) -> bytes | None:
        """The whole object, or None where there is none."""
        data = self._reached(key, partial(self._storage.read, key))
        if data is not None and not self.is_local:
            FETCHED.add(len(data))
        return data

    def _reached(self, key: str, attempt: Callable[[], T]) -> T:
        return reached(f"{self._prefix}{key}", attempt) if self.is_local else attempt()

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        """The object as a file on this machine as long as the context lasts; it may have gone."""
        return self._storage.local_path(key)


@contextmanager
def blaming_the_file() -> Iterator[None]:
    """Make a ProbeError of what a storage says of one file, such as that it may not be read.

    Raises:
        ChangedError: a bucket has another version than was asked for.
        ProbeError: it has gone, or can't be read.
        StorageError: the storage itself is in trouble.
    """
    try:
        yield
    except WriteConflict as error:
        raise ChangedError(CHANGED) from error
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError) and cause.errno is None:  # as buckets say it
            raise ProbeError("it is not there any more") from error
        if not isinstance(cause, OSError) or cause.errno is None or machine_fault(cause) is not None:
            raise
        raise ProbeError(str(error)) from error
