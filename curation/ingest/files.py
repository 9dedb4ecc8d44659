"""Plain files: each picture or video is a source."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from curation.errors import ProbeError
from curation.ingest.locator import locator_of, printable
from curation.ingest.reach import reached
from curation.ingest.suffixes import kind_of
from curation.records import Source, SourceKind
from curation.storage.scratch import path_of_handle
from curation.storage.surveys.folders import DANGLING, describe_mode

_COPIED_BYTES: Mapping[SourceKind, int] = {"image": 1 << 26}
"""Larger pictures are read from where they are, and all other files."""
_COPIED_AT_FIRST_BYTES: Mapping[SourceKind, int] = {**_COPIED_BYTES, "video": 1 << 28}
"""The same where a source is hashed and decoded in one go, which would read it twice."""
_BLOCK_BYTES = 1 << 26


class FileReader:
    """Reads folders of files."""

    scheme = ""

    def takes(self, key: str) -> bool:
        return kind_of(key) is not None

    def reads_in_place(self, source: Source, *, is_first: bool = False) -> bool:
        """Whether an opened source is read from where it is stored; else it is copied first.

        `is_first` is what `opened` is told.
        """
        return source.size_bytes > _copied_bytes(source, is_first=is_first)

    @contextmanager
    def opened(self, source: Source, *, is_first: bool = False) -> Iterator[Path]:
        """The source as a file. `is_first`: it is about to be hashed and decoded, one after the other."""
        storage, key = locator_of(source.uri).open_storage()
        max_bytes, was_there = _copied_bytes(source, is_first=is_first), source.etag != DANGLING
        with storage.local_path(key) as path, _held(path, max_bytes, was_there=was_there) as held:
            yield held


def _copied_bytes(source: Source, *, is_first: bool) -> int:
    """How large a source may be to be copied into memory."""
    return (_COPIED_AT_FIRST_BYTES if is_first else _COPIED_BYTES).get(source.kind, -1)


@contextmanager
def _held(path: Path, max_bytes: int, *, was_there: bool) -> Iterator[Path]:
    """A path to the file that stands here now, though another one may take its place.

    One of up to `max_bytes` is copied into memory, so that not even writing into the file changes what is
    read.

    Raises:
        ProbeError: it can't be opened, or is no file.
        StorageError: its input is away.
    """
    handle = _handle_of(path, was_there=was_there)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if status.st_size > max_bytes:
            yield path_of_handle(handle)
            return
        with os.fdopen(os.memfd_create("curation"), "wb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK_BYTES)
            copy.flush()
            yield path_of_handle(copy.fileno())


def _handle_of(path: Path, *, was_there: bool) -> int:
    """A handle of the file; `was_there`: it was one when it was listed, and not a link to nothing.

    Raises:
        ProbeError: there is none, it is something else (a FIFO is never opened), or it may not be read.
        StorageError: its input is away.
    """
    try:
        return reached(str(path), partial(_open_file, path)) if was_there else _open_file(path)
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise ProbeError(
                f"it is a link to {printable(str(path.readlink()))}, which is not there"
            ) from error
        if r"\x" in path.name and not path.exists():
            raise ProbeError("its name is not UTF-8, so it can't be opened by it: rename the file") from error
        raise ProbeError(f"the file can't be opened: {error.strerror}") from error


def _open_file(path: Path) -> int:
    what = describe_mode(path.stat().st_mode)
    if what is not None:
        raise ProbeError(f"it is {what}, not a file")
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
