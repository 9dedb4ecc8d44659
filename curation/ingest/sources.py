"""The readers there are; which one lists a file, and which one opens a source."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from curation.errors import StorageError
from curation.ingest.files import FileReader
from curation.ingest.parquet import ParquetReader
from curation.ingest.place import place_of
from curation.ingest.reader import Contents, Folder, Reader
from curation.ingest.tars import TarReader
from curation.records import Source
from curation.storage import Listed, open_storage

READERS: tuple[Reader, ...] = (FileReader(), TarReader(), ParquetReader())
_OF_SCHEME = {reader.scheme: reader for reader in READERS}


def reader_of(key: str) -> Reader | None:
    """The reader for a file of this name."""
    return next((reader for reader in READERS if reader.takes(key)), None)


def contents_of(folder: Folder, item: Listed) -> Contents:
    """What a file holds; nothing if no reader takes it."""
    reader = reader_of(item.key)
    if reader is None:
        return Contents()
    try:
        return reader.list(folder, item)
    except StorageError as error:
        return Contents(error=str(error))


def open_source(source: Source) -> AbstractContextManager[Path]:
    """A source as a file on this machine, while the context lasts.

    Raises:
        ProbeError: it is not there any more, or can't be read; when the context is entered.
    """
    return _OF_SCHEME[place_of(source.uri).scheme].opened(source)


def list_again(container: Source) -> Source:
    """A failed container with what listing it says now: no error if it can be listed to its end."""
    path = place_of(container.uri).path
    root, _, key = path.rpartition("/")
    folder = Folder(open_storage(root or "/"), root, {})
    item = folder.storage.find(key)
    contents = contents_of(folder, item) if item else Contents(error=f"{key} is not there any more")
    return replace(container, error_type="ProbeError" if contents.error else None, error=contents.error)
