"""WebDataset tars: each picture or video in one is a source, with what its .txt and .json say.

Headers are walked by seeking from one to the next; no picture is read. Python's `tarfile` takes a
damaged header for the end of the archive, so the end is looked at too. What a header may cost is bounded
here: `tarfile` itself goes backwards with a negative size, and for ever.
"""

from __future__ import annotations

import posixpath
import struct
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from curation.errors import ProbeError
from curation.ingest.containers.opened import OpenedContainers
from curation.ingest.containers.reader import (
    MAX_ENTRIES,
    Budget,
    Container,
    Entry,
    EntryColumns,
    Inventory,
)
from curation.ingest.locator import position_of, printable
from curation.ingest.metadata import MAX_SIDECAR_BYTES, SIDECAR_SUFFIXES, from_sidecar, from_sidecars
from curation.ingest.suffixes import kind_of
from curation.records import MetadataValue, Source, SourceKind
from curation.storage.scratch import unnamed_file, write_temporary

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BLOCK_BYTES = tarfile.BLOCKSIZE
_COPY_BYTES = 1 << 20
_PADDING_BYTES = 1 << 20
"""How far behind the end of an archive is looked for more of it; padding is 10 kB as a rule."""
_MAX_HEADER_BYTES = 1 << 16
"""Of one member, with its long name, PAX records and sparse map; 1,536 bytes as a rule."""
_MAX_GLOBAL_RECORDS = 100
_BEAT_EVERY = 1000
_FAULTS = (tarfile.TarError, OSError, ValueError, LookupError, ArithmeticError, RecursionError, struct.error)
"""What `tarfile` raises about damaged archives."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    kind: SourceKind
    offset_bytes: int
    size_bytes: int


@dataclass
class _ArchiveWalk:
    """What was met in an archive so far. Of members of one name the last counts, as in unpacking."""

    budget: Budget
    members: dict[str, _Member] = field(default_factory=dict)
    metadata: dict[str, dict[str, dict[str, MetadataValue]]] = field(default_factory=dict)
    """Name without suffix -> suffix in lower case -> values."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What was met that is no file -> how often."""
    num_files: int = 0
    num_sparse: int = 0
    offset_bytes: int = 0
    """Where the next header is."""


class _Metered:
    """A file that gives the reader of a header no more than `_MAX_HEADER_BYTES`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.renew()

    def renew(self) -> None:
        """The next header begins."""
        self._left = _MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise tarfile.ReadError(f"a header is not of 0 to {_MAX_HEADER_BYTES} bytes")
        data = self._file.read(size)
        self._left -= len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class TarReader:
    """Reads tars that are not compressed."""

    scheme = "tar"
    suffixes = frozenset(f".{end.rpartition('.')[2]}" for end in (".tar", *_COMPRESSED))

    def __init__(self) -> None:
        self._archives = OpenedContainers()

    def expect(self, sources: Iterable[Source]) -> None:
        """These members will be opened, so that they can be fetched together."""
        self._archives.expect(sources)

    def takes(self, key: str) -> bool:
        return key.lower().endswith((".tar", *_COMPRESSED))

    def list(self, container: Container, on_progress: Callable[[], None]) -> Inventory:
        item = container.item
        if item.key.lower().endswith(_COMPRESSED):
            return Inventory(error="there is no seeking in a compressed tar: unpack it, or repack it as .tar")
        walk, error = _ArchiveWalk(Budget(item.size_bytes)), None
        with container.storage.open(item.key) as file:
            try:
                _walk(file, walk, on_progress)
            except _FAULTS as problem:
                error = f"damaged after {walk.num_files} files: {printable(str(problem))}"
        if error is None and walk.num_sparse:
            error = (
                f"{walk.num_sparse} pictures or videos in it are stored as sparse files, which are not read"
            )
        entries = EntryColumns()
        entries.add(_entry(walk, member) for member in walk.members.values())
        stems = {_stem(walk, member) for member in walk.members.values()}
        num_used = sum(len(walk.metadata[stem]) for stem in stems if stem)
        num_ignored = walk.num_files - entries.num_entries - num_used
        return Inventory(entries.table(), num_ignored, walk.left_out, error=error)

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path]:
        with unnamed_file() as (copy, path):
            with self._archives.opened(source) as file:
                file.seek(position_of(source))
                _copy(file, copy, source.size_bytes)
            yield path


def _walk(file: IO[bytes], walk: _ArchiveWalk, on_progress: Callable[[], None]) -> None:
    """Note every file in the archive.

    Raises:
        One of `_FAULTS`: damaged, or more than may be listed; what came before is noted.
    """
    size_bytes = file.seek(0, 2)
    file.seek(0)
    metered = _Metered(file)
    with tarfile.open(fileobj=metered, mode="r:") as archive:  # type: ignore[call-overload]
        while (member := _next(archive, metered, walk)) is not None:
            if not _is_file(walk, member):
                continue
            if walk.num_files == MAX_ENTRIES:
                raise tarfile.ReadError("a tar of more is not listed to its end: pack it as several")
            _check_size(member, size_bytes)
            walk.num_files += 1
            if walk.num_files % _BEAT_EVERY == 0:
                on_progress()
            _note(file, walk, member)
        _check_end(file, archive.offset)


def _is_file(walk: _ArchiveWalk, member: tarfile.TarInfo) -> bool:
    """Whether a member is one to read. A second name of a file is noted as that file; the rest is counted."""
    if member.isdir():
        return False
    if posixpath.basename(member.name).startswith("."):
        walk.left_out["hidden file in a tar"] += 1
        return False
    if member.islnk() and _is_second_name(walk, member):
        return False
    if not member.isreg():
        kind = "link" if member.islnk() or member.issym() else "device or FIFO"
        walk.left_out[f"{kind} in a tar"] += 1
    return bool(member.isreg())


def _is_second_name(walk: _ArchiveWalk, member: tarfile.TarInfo) -> bool:
    """Note a hard link to a medium or a sidecar that stands before it; False if it is to nothing of these."""
    (stem, suffix), (other, other_suffix) = map(posixpath.splitext, (member.name, member.linkname))
    kind, target = kind_of(member.name), walk.members.get(member.linkname)
    said = walk.metadata.get(other, {}).get(other_suffix.lower())
    if kind is not None and target is not None:
        walk.num_files += 1
        walk.members[member.name] = replace(target, name=member.name, kind=kind)
        return True
    if suffix.lower() == other_suffix.lower() and said is not None:
        walk.num_files += 1
        walk.metadata.setdefault(stem, {})[suffix.lower()] = said
        return True
    return False


def _next(archive: tarfile.TarFile, metered: _Metered, walk: _ArchiveWalk) -> tarfile.TarInfo | None:
    """The next member.

    Raises:
        tarfile.ReadError: it leads back to where others have been read.
    """
    metered.renew()
    member = archive.next()
    archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
    if member is not None and (member.size < 0 or archive.offset <= walk.offset_bytes):
        raise tarfile.ReadError(f"{member.name} is said to be {member.size} bytes long")
    if len(archive.pax_headers) > _MAX_GLOBAL_RECORDS:
        raise tarfile.ReadError(f"it has more than {_MAX_GLOBAL_RECORDS} records about all of its files")
    walk.offset_bytes = archive.offset
    return member


def _check_size(member: tarfile.TarInfo, size_bytes: int) -> None:
    if member.size > size_bytes and not member.issparse():
        raise tarfile.ReadError(
            f"{member.name} is said to be {member.size} bytes long, and the tar is {size_bytes}"
        )


def _note(file: IO[bytes], walk: _ArchiveWalk, member: tarfile.TarInfo) -> None:
    kind = kind_of(member.name)
    stem, suffix = posixpath.splitext(member.name)
    if kind is not None:
        if member.issparse():
            walk.num_sparse += 1
            return
        walk.members.pop(member.name, None)
        walk.members[member.name] = _Member(member.name, kind, member.offset_data, member.size)
    elif suffix.lower() in SIDECAR_SUFFIXES and member.size <= MAX_SIDECAR_BYTES:
        said = walk.metadata.setdefault(stem, {})
        if suffix.islower() or suffix.lower() not in said:  # of NAME.txt and NAME.TXT the first counts
            file.seek(member.offset_data)
            said[suffix.lower()] = walk.budget.allowed(from_sidecar(suffix.lower(), file.read(member.size)))


def _check_end(file: IO[bytes], offset_bytes: int) -> None:
    """An archive ends with blocks of zeros and nothing else.

    Raises:
        tarfile.ReadError: it breaks off, or something follows.
    """
    file.seek(offset_bytes)
    end = file.read(_BLOCK_BYTES + _PADDING_BYTES)
    if not end:
        raise tarfile.ReadError("it breaks off: the blocks that mark the end are missing")
    if any(end[:_BLOCK_BYTES]):
        raise tarfile.ReadError("a header can't be read")
    if any(end):
        raise tarfile.ReadError("more follows behind its end; joined archives are not read")


def _stem(walk: _ArchiveWalk, member: _Member) -> str | None:
    """The name under which sidecars of a member stand: without its suffix, or up to the first dot."""
    folder, name = posixpath.split(member.name)
    stems = (posixpath.splitext(member.name)[0], posixpath.join(folder, name.partition(".")[0]))
    return next((stem for stem in stems if stem in walk.metadata), None)


def _entry(walk: _ArchiveWalk, member: _Member) -> Entry:
    stem = _stem(walk, member)
    said = from_sidecars(walk.metadata[stem]) if stem else {}
    return Entry(printable(member.name), member.kind, member.offset_bytes, member.size_bytes, said)


def _copy(file: IO[bytes], copy: IO[bytes], size_bytes: int) -> None:
    left = size_bytes
    while left and (data := file.read(min(left, _COPY_BYTES))):
        write_temporary(copy, data)
        left -= len(data)
    if left:
        raise ProbeError(f"the tar ends {left} bytes before this member does")
