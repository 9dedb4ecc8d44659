"""The readers there are; which one lists a file, and which one opens a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from curation.errors import ChangedError, ProbeError, SampleError, StorageError
from curation.errors.isolation import isolated, may_be_storage
from curation.ingest.containers.manifests import ManifestReader
from curation.ingest.containers.parquet.reader import ParquetReader
from curation.ingest.containers.reader import ContainerReader, Reader
from curation.ingest.containers.tars import TarReader
from curation.ingest.fetching import FETCHES, is_in_bucket, is_object
from curation.ingest.files import FileReader
from curation.ingest.locator import locator_of, version_of
from curation.ingest.reach import CHANGED, blaming_the_file
from curation.media.file import MediaFile
from curation.records import Source
from curation.storage.base import ignore
from curation.storage.digest import Watch, digest_of

T = TypeVar("T")

_BLOCK_BYTES = 1 << 24
_PART = 0.8
_SMALL_BYTES = 1 << 22
"""Up to this size one request for all is better than several for parts."""

_FILES = FileReader()
_TARS = TarReader()
_CONTAINERS: tuple[ContainerReader, ...] = (_TARS, ParquetReader(), ManifestReader())
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


def is_in_place(source: Source, *, is_first: bool = False) -> bool:
    """Whether the source, once opened, is read from where it is stored, in a folder."""
    return (
        not is_in_bucket(source)
        and not locator_of(source.uri).scheme
        and _FILES.reads_in_place(source, is_first=is_first)
    )


@contextmanager
def reading_ahead(sources: Sequence[Source], on_progress: Callable[[], None]) -> Iterator[None]:
    """Fetch what lies in buckets of these sources while those before are worked on; opened in this order.

    `on_progress` is called now and then while somebody waits for one and bytes come in.
    """
    members = (source for source in sources if source.kind != "container")
    _TARS.expect(source for source in members if locator_of(source.uri).scheme == _TARS.scheme)
    try:
        with FETCHES.ahead(sources, on_progress):
            yield
    finally:
        _TARS.expect(())


class OpenSource(Protocol):
    """Opens a source, as `open_source` does."""

    def __call__(self, source: Source, *, span_s: float | None = None) -> AbstractContextManager[MediaFile]:
        """The source; `span_s` as `open_source` takes it."""


@contextmanager
def open_source(
    source: Source,
    on_read: Callable[[int], None] = ignore,
    *,
    is_first: bool = False,
    span_s: float | None = None,
) -> Iterator[MediaFile]:
    """A source as a file on this machine, while the context lasts: the bytes that were hashed at probing.

    `on_read` is told how many bytes are fetched from a folder: once where a source is copied to memory or to
    a temporary file, and else whenever it is hashed. Decoding one that `is_in_place` fetches it once more.
    What is fetched of buckets is counted where that happens (`FETCHED`). `is_first` says that the source is
    hashed now and decoded after that: then a video that is not large is copied to memory, too.

    Of a video in a bucket no more than a part is fetched if clearly less than all of it is looked at:
    `span_s` seconds, or None for all. Such a one, and one that is too large for scratch, is no path but a
    file that is read in ranges.

    Raises:
        ProbeError: it is not there any more, or can't be read; when the context is entered.
        ChangedError: it is not what was hashed, or was written to while it was read.
        StorageError, EnvironmentFault: the trouble is not this source's.
    """
    if is_object(source):
        opened = _open_object(source, span_s)
    else:
        opened = _open_copy(source, on_read, is_first=is_first)
    with opened as file:
        yield file


@contextmanager
def _open_object(source: Source, span_s: float | None) -> Iterator[MediaFile]:
    with ExitStack() as stack:
        with isolated(ProbeError), blaming_the_file():
            path = None
            if not _reads_in_ranges(source, span_s):
                path = stack.enter_context(FETCHES.opened(source))
            file = FETCHES.ranged(source) if path is None else None
        if path is not None:
            yield path
        if file is None:
            return
        try:
            yield file
        except (SampleError, StorageError):
            raise_failure(file)
            raise
        raise_failure(file)


def _reads_in_ranges(source: Source, span_s: float | None) -> bool:
    """Whether that fetches clearly less than all of a video."""
    if span_s is None or source.kind != "video" or source.clock_jumps or source.duration_s is None:
        return False
    is_part = span_s < _PART * source.duration_s
    return is_part and source.size_bytes > _SMALL_BYTES and not FETCHES.has(source)


def raise_failure(file: MediaFile) -> None:
    """Raise what went wrong between us and a bucket, which decoders take for the end of a file, or damage.

    Raises:
        ChangedError: the object was replaced.
        ProbeError: it has gone.
        StorageError: the bucket is in trouble.
    """
    failure = getattr(file, "failure", None)
    if failure is not None:
        with blaming_the_file():
            raise failure


@contextmanager
def _open_copy(source: Source, on_read: Callable[[int], None], *, is_first: bool) -> Iterator[Path]:
    """A file, or a part of a container."""
    with ExitStack() as stack:
        with isolated(ProbeError), blaming_the_file():
            reader = _OF_SCHEME[locator_of(source.uri).scheme]
            opened = _FILES.opened(source, is_first=is_first) if reader is _FILES else reader.opened(source)
            path = stack.enter_context(opened)
            watch = Watch(path, source.content_hash)
            in_place = is_in_place(source, is_first=is_first)
            if not in_place and not is_in_bucket(source):
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


def while_unchanged(source: Source, file: MediaFile, frames: Iterable[T]) -> Iterator[T]:
    """What is read of an opened source, each given only if the file is still what it was before the first.

    Raises:
        ChangedError: it was written to.
        StorageError: it is read in ranges, and one could not be fetched.
    """
    watch = Watch(file, source.content_hash) if isinstance(file, Path) else None
    for frame in frames:
        raise_failure(file)
        if watch is not None and not watch.is_unchanged():
            raise _changed(source)
        yield frame
