"""Plain files: each picture or video is a source."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation.errors import ProbeError
from curation.ingest.containers.reader import path_of_handle
from curation.ingest.locator import locator_of, printable
from curation.ingest.suffixes import kind_of
from curation.records import Source, SourceKind
from curation.storage.survey import describe_mode

_COPIED_BYTES = 1 << 26
"""Larger pictures are read from where they are."""


class FileReader:
    """Reads folders of files."""

    scheme = ""

    def takes(self, key: str) -> bool:
        return kind_of(key) is not None

    def reads_in_place(self, source: Source) -> bool:
        """Whether an opened source is read from where it is stored; else it is copied first."""
        return source.kind != "image" or source.size_bytes > _COPIED_BYTES

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path]:
        storage, key = locator_of(source.uri).open_storage()
        with storage.local_path(key) as path, _held(path, source.kind) as held:
            yield held


@contextmanager
def _held(path: Path, kind: SourceKind) -> Iterator[Path]:
    """A path to the file that stands here now, though another one may take its place.

    A picture is copied into memory, so that not even writing into the file changes what is read.

    Raises:
        ProbeError: it can't be opened, or is no file.
    """
    handle = _handle_of(path)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if kind != "image" or status.st_size > _COPIED_BYTES:
            yield path_of_handle(handle)
            return
        with os.fdopen(os.memfd_create("curation"), "wb") as copy:
            shutil.copyfileobj(file, copy, _COPIED_BYTES)
            copy.flush()
            yield path_of_handle(copy.fileno())


def _handle_of(path: Path) -> int:
    """A handle of the file.

    Raises:
        ProbeError: there is none, it is something else (a FIFO is never opened), or it may not be read.
    """
    try:
        what = describe_mode(path.stat().st_mode)
        if what is not None:
            raise ProbeError(f"it is {what}, not a file")
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise ProbeError(
                f"it is a link to {printable(str(path.readlink()))}, which is not there"
            ) from error
        if r"\x" in path.name and not path.exists():
            raise ProbeError("its name is not UTF-8, so it can't be opened by it: rename the file") from error
        raise ProbeError(f"the file can't be opened: {error.strerror}") from error
