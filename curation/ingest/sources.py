"""The readers there are; which one lists a file, and which one opens a source."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from curation.errors import StorageError
from curation.ingest.files import FileReader
from curation.ingest.manifests import ManifestReader
from curation.ingest.parquet.reader import ParquetReader
from curation.ingest.place import place_of
from curation.ingest.reader import ContainerReader, Contents, Folder, Reader
from curation.ingest.tars import TarReader
from curation.records import Source
from curation.storage import Listed

_FILES = FileReader()
_CONTAINERS: tuple[ContainerReader, ...] = (TarReader(), ParquetReader(), ManifestReader())
_OF_SCHEME: dict[str, Reader] = {reader.scheme: reader for reader in (_FILES, *_CONTAINERS)}


def container_reader(key: str) -> ContainerReader | None:
    """The reader of containers for a file of this name."""
    return next((reader for reader in _CONTAINERS if reader.takes(key)), None)


def is_read(key: str) -> bool:
    """Whether a file of this name may hold media, or name files that do."""
    return _FILES.takes(key) or container_reader(key) is not None


def list_file(folder: Folder, item: Listed) -> Contents:
    """A plain file as a source; nothing if its name is not that of media."""
    if not _FILES.takes(item.key):
        return Contents()
    try:
        return _FILES.list(folder, item)
    except StorageError as error:
        return Contents(error_type="ProbeError", error=str(error))


def open_source(source: Source) -> AbstractContextManager[Path]:
    """A source as a file on this machine, while the context lasts.

    Raises:
        ProbeError: it is not there any more, or can't be read; when the context is entered.
    """
    return _OF_SCHEME[place_of(source.uri).scheme].opened(source)
