"""A folder as a storage: temp file, fsync, rename; a lock file where a version must be compared."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from curation.errors import NoSuchObject, StorageError, WriteConflict
from curation.storage.base import ABSENT, Listed, check_stays_below, ignore

_TEMP_PREFIX = ".writing-"
_LOCK = ".lock"
_FILES = (".parquet", ".json")
"""How the names of files end that runs write; a folder of such a name hides one."""


@contextmanager
def named_errors(path: Path | str) -> Iterator[None]:
    """What the system says about `path`, as a StorageError."""
    try:
        yield
    except IsADirectoryError as error:
        raise _is_folder(path) from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _is_folder(path: Path | str) -> StorageError:
    return StorageError(f"{path} is a folder where a file should be; move it away")


def etag_of(status: os.stat_result) -> str:
    """A tag of a file that changes with its size and its time of modification."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


class _NamedFile(io.FileIO):
    """A file whose reads fail by a StorageError.

    Whoever reads files that may be damaged takes an OSError for that: this is none.
    """

    def readinto(self, buffer: Any, /) -> int | None:
        with named_errors(str(self.name)):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with named_errors(str(self.name)):
            return super().readall()


class LocalStorage:
    """Objects as files under a folder."""

    is_local = True
    compares_versions = True

    def __init__(self, root: str) -> None:
        self.root = root
        self._folder = Path(root)

    def list(self, prefix: str) -> list[Listed]:
        top = self._path(prefix)
        found: list[Listed] = []
        with named_errors(top):
            is_there = (status := _status_of(top)) is not None and stat.S_ISDIR(status.st_mode)
            waiting = [(str(top), f"{PurePosixPath(prefix)}/" if prefix else "")] if is_there else []
            while waiting:
                folder, keys = waiting.pop()
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            if entry.name.endswith(_FILES):
                                raise _is_folder(entry.path)
                            waiting.append((entry.path, f"{keys}{entry.name}/"))
                        elif not entry.name.startswith(".") and (status := _status_in(folder, entry)):
                            found.append(Listed(keys + entry.name, status.st_size, etag_of(status)))
        return sorted(found, key=lambda item: item.key)

    def leftovers(self, prefix: str) -> tuple[str, ...]:
        top = self._path(prefix)
        with named_errors(top):
            found = [path.relative_to(self._folder).as_posix() for path in top.rglob(f"{_TEMP_PREFIX}*")]
        return tuple(sorted(found))

    def find(self, key: str) -> Listed | None:
        path = self._path(key)
        with named_errors(path):
            status = _status_of(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        return Listed(path.relative_to(self._folder).as_posix(), status.st_size, etag_of(status))

    def open(self, key: str, etag: str | None = None, on_fetch: Callable[[int], None] = ignore) -> IO[bytes]:
        path = self._path(key)
        with named_errors(path):
            try:
                return io.BufferedReader(_NamedFile(path))
            except FileNotFoundError as error:
                raise NoSuchObject(f"{path}: {error.strerror}") from error

    def read(self, key: str) -> bytes | None:
        path = self._path(key)
        with named_errors(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        data = self.read(key)
        return data, ABSENT if data is None else _version(data)

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        path = self._path(key)
        with named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _new_temp(path.parent) as (temp, file):
                file.write(data)
                _close(file)
                if expect is None:
                    temp.replace(path)
                else:
                    self._replace_if(path, temp, expect)
            _sync_folder(path.parent)

    @contextmanager
    def creating(self, key: str) -> Iterator[IO[bytes]]:
        path = self._path(key)
        with named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _new_temp(path.parent) as (temp, file):
                yield file
                _close(file)
                temp.replace(path)
            _sync_folder(path.parent)

    def _replace_if(self, path: Path, temp: Path, expect: str) -> None:
        with _locked(path.parent / _LOCK, wait=True):
            current = _version(path.read_bytes()) if path.exists() else ABSENT
            if current != expect:
                raise WriteConflict(f"{path} was written by someone else")
            temp.replace(path)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with named_errors(path):
            path.unlink(missing_ok=True)

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        yield self._path(key)

    def _path(self, key: str) -> Path:
        """Where an object is. Names that come from data never lead out of the folder.

        Raises:
            StorageError: this one would.
        """
        check_stays_below(self.root, key)
        return self._folder / key

    @contextmanager
    def exclusive(self, say: Callable[[str], None] | None = None) -> Iterator[None]:
        with named_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder / _LOCK, wait=False):
            self._remove_leftovers()
            yield
            self._remove_leftovers()  # of workers that were killed meanwhile

    def _remove_leftovers(self) -> None:
        """Remove half-written files of who was killed; nobody else writes while the lock is held."""
        for key in self.leftovers(""):
            self.delete(key)


def _status_of(path: Path) -> os.stat_result | None:
    """What there is; None where nothing is. Unlike `Path.is_file`, it doesn't hide that a disk failed."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _status_in(folder: str, entry: os.DirEntry[str]) -> os.stat_result | None:
    """What a file of a folder is; None where it is no file, or was removed since the folder was read."""
    try:
        return entry.stat() if entry.is_file() else None
    except FileNotFoundError:
        os.stat(folder)  # noqa: PTH116  where the folder is away, too, that is no removed file
        return None


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _new_temp(folder: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A temporary file, and its path; it is gone in the end, unless it was given another name.

    Created as any new file is, so that the umask and the folder's own rules say who may read it.
    """
    temp = folder / f"{_TEMP_PREFIX}{uuid.uuid4().hex}"
    try:
        with temp.open("xb") as file:
            yield temp, file
    finally:
        temp.unlink(missing_ok=True)


def _close(file: IO[bytes]) -> None:
    """Bring all that was written to the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock that the kernel releases when this process ends, however it ends."""
    with named_errors(path):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise StorageError(f"{path.parent}: another run is working on this output") from error
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
