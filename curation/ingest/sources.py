"""The readers there are; which one lists a file, and which one opens a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from curation.errors import ChangedError, ProbeError, SampleError
from curation.errors.isolation import isolated, may_be_storage
from curation.ingest.containers.manifests import ManifestReader
from curation.ingest.containers.parquet.reader import ParquetReader
from curation.ingest.containers.reader import ContainerReader, Reader
from curation.ingest.containers.tars import TarReader
from curation.ingest.files import FileReader
from curation.ingest.locator import locator_of, version_of
from curation.ingest.reach import CHANGED, blaming_the_file
from curation.records import Source
from curation.storage.digest import Watch, digest_of

T = TypeVar("T")

_BLOCK_BYTES = 1 << 24

_FILES = FileReader()
_CONTAINERS: tuple[ContainerReader, ...] = (TarReader(), ParquetReader(), ManifestReader())
_OF_SCHEME: dict[str, Reader] = {reader.scheme: reader for reader in (_FILES, *_CONTAINERS)}


def container_reader(key: str) -> ContainerReader | None:
    """The reader of containers for a file of this name."""
    return next((reader for reader in _CONTAINERS if reader.takes(key)), None)


def may_be_container(suffix: str) -> bool:
    """Whether names that end so, in lower case, may be those of containers; `container_reader` decides."""
    return any(suffix in reader.suffixes for reader in _CONTAINERS)


def is_read(key: str) -> bool:
    """Whether a file of this name may hold media, or name files that do."""
    return _FILES.takes(key) or container_reader(key) is not None


def ignore(num_bytes: int) -> None:
    """Counts nothing."""


def is_in_place(source: Source, *, is_first: bool = False) -> bool:
    """Whether the source, once opened, is read from where it is stored."""
    return not locator_of(source.uri).scheme and _FILES.reads_in_place(source, is_first=is_first)


@contextmanager
def open_source(
    source: Source, on_read: Callable[[int], None] = ignore, *, is_first: bool = False
) -> Iterator[Path]:
    """A source as a file on this machine, while the context lasts: the bytes that were hashed at probing.

    `on_read` is told how many bytes are fetched from where the source is stored: once where it is copied to
    memory or to a temporary file, and else whenever it is hashed. Decoding one that `is_in_place` fetches
    it once more. `is_first` says that it is hashed now and decoded after that: then a video that is not
    large is copied to memory, too.

    Raises:
        ProbeError: it is not there any more, or can't be read; when the context is entered.
        ChangedError: it is not what was hashed, or was written to while it was read.
        StorageError, EnvironmentFault: the trouble is not this source's.
    """
    with ExitStack() as stack:
        with isolated(ProbeError), blaming_the_file():
            reader = _OF_SCHEME[locator_of(source.uri).scheme]
            opened = _FILES.opened(source, is_first=is_first) if reader is _FILES else reader.opened(source)
            path = stack.enter_context(opened)
            watch = Watch(path, source.content_hash)
            in_place = is_in_place(source, is_first=is_first)
            if not in_place:
                on_read(path.stat().st_size)
            hashes = source.content_hash is not None
            if hashes and digest_of(path, on_read if in_place else ignore) != source.content_hash:
                raise _changed(source)
        try:
            yield path
        except SampleError as error:
            if not _is_unchanged(watch):
                raise _changed(source) from error
            if in_place and may_be_storage(error.__cause__):
                _read_through(path)
            raise
        if not _is_unchanged(watch):
            raise _changed(source)


def _read_through(path: Path) -> None:
    """Raises StorageError: the file can't be read to its end, so that it is not the file that is damaged."""
    with isolated(ProbeError), path.open("rb", buffering=0) as file:
        while file.read(_BLOCK_BYTES):
            pass


def _is_unchanged(watch: Watch) -> bool:
    with isolated(ProbeError):
        return watch.is_unchanged()


def _changed(source: Source) -> ChangedError:
    storage, key = locator_of(source.uri).open_storage()
    listed = storage.find(key)
    if listed is not None and listed.etag == version_of(source)[1]:
        return ChangedError(
            "it was changed since it was listed, though size and date are the same; "
            "touch the file, and the next run takes it up anew"
        )
    return ChangedError(CHANGED)


def while_unchanged(source: Source, path: Path, frames: Iterable[T]) -> Iterator[T]:
    """What is read of an opened source, each given only if the file is still what it was before the first.

    Raises:
        ChangedError: it was written to.
    """
    watch = Watch(path, source.content_hash)
    for frame in frames:
        if not watch.is_unchanged():
            raise _changed(source)
        yield frame
