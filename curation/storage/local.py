"""A folder as a storage: temp file, fsync, rename; a lock file where a version must be compared."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from curation.errors import StorageError, WriteConflict
from curation.storage.base import ABSENT, Listed

_TEMP_PREFIX = ".writing-"
_LOCK = ".lock"


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


class LocalStorage:
    """Objects as files under a folder."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._folder = Path(root)

    def list(self, prefix: str) -> list[Listed]:
        top = self._folder / prefix
        with _named_errors(top):
            found = [self._listed(path) for path in top.rglob("*") if path.is_file()] if top.is_dir() else []
        visible = (item for item in found if not Path(item.key).name.startswith("."))
        return sorted(visible, key=lambda item: item.key)

    def leftovers(self, prefix: str) -> tuple[str, ...]:
        top = self._folder / prefix
        with _named_errors(top):
            found = [path.relative_to(self._folder).as_posix() for path in top.rglob(f"{_TEMP_PREFIX}*")]
        return tuple(sorted(found))

    def _listed(self, path: Path) -> Listed:
        status = path.stat()
        etag = f"{status.st_size:x}-{status.st_mtime_ns:x}"
        return Listed(path.relative_to(self._folder).as_posix(), status.st_size, etag)

    def find(self, key: str) -> Listed | None:
        path = self._folder / key
        with _named_errors(path):
            return self._listed(path) if path.is_file() else None

    def open(self, key: str) -> IO[bytes]:
        path = self._folder / key
        with _named_errors(path):
            return path.open("rb")

    def read(self, key: str) -> bytes | None:
        path = self._folder / key
        with _named_errors(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        data = self.read(key)
        return data, ABSENT if data is None else _version(data)

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        path = self._folder / key
        with _named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temp = _write_temp(path.parent, data)
            try:
                if expect is None:
                    temp.replace(path)
                else:
                    self._replace_if(path, temp, expect)
            finally:
                temp.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def _replace_if(self, path: Path, temp: Path, expect: str) -> None:
        with _locked(path.parent / _LOCK, wait=True):
            current = _version(path.read_bytes()) if path.exists() else ABSENT
            if current != expect:
                raise WriteConflict(f"{path} was written by someone else")
            temp.replace(path)

    def delete(self, key: str) -> None:
        path = self._folder / key
        with _named_errors(path):
            path.unlink(missing_ok=True)

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        yield self._folder / key

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with _named_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder / _LOCK, wait=False):
            self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        """Half-written files of a run that was killed; nobody else writes while the lock is held."""
        for key in self.leftovers(""):
            self.delete(key)


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_temp(folder: Path, data: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix=_TEMP_PREFIX, dir=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temp = Path(name)
    temp.chmod(0o644)
    return temp


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock that the kernel releases when this process ends, however it ends."""
    with _named_errors(path):
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
