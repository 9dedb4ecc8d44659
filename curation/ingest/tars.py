"""WebDataset tars: each picture or video in one is a source, with what its .txt and .json say.

Headers are walked by seeking from one to the next; no picture is read. Python's `tarfile` takes a
damaged header for the end of the archive, so the end is looked at too.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from curation.errors import ProbeError
from curation.ingest.carried import MAX_SIDECAR_BYTES, SIDECAR_SUFFIXES, from_sidecar
from curation.ingest.place import Place, check_unchanged, part_etag, place_of, position_of, printable
from curation.ingest.reader import Contents, Folder, unnamed_file
from curation.ingest.suffixes import kind_of
from curation.records import Carried, Source, SourceKind, stable_id
from curation.storage import Listed

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BLOCK_BYTES = tarfile.BLOCKSIZE
_COPY_BYTES = 1 << 20
_PADDING_BYTES = 1 << 20
"""How far behind the end of an archive is looked for more of it; padding is 10 kB as a rule."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    kind: SourceKind
    offset_bytes: int
    size_bytes: int


@dataclass
class _Walk:
    """What was met in an archive so far. Of members of one name the last counts, as in unpacking."""

    members: dict[str, _Member] = field(default_factory=dict)
    carried: dict[str, dict[str, dict[str, Carried]]] = field(default_factory=dict)
    """Name without suffix -> suffix -> values."""
    num_files: int = 0


class TarReader:
    """Reads tars that are not compressed."""

    scheme = "tar"

    def takes(self, key: str) -> bool:
        return key.lower().endswith((".tar", *_COMPRESSED))

    def list(self, folder: Folder, item: Listed) -> Contents:
        if item.key.lower().endswith(_COMPRESSED):
            return Contents(error="there is no seeking in a compressed tar: unpack it, or repack it as .tar")
        walk, error = _Walk(), None
        with folder.storage.open(item.key) as file:
            try:
                _walk(file, walk)
            except (tarfile.TarError, OSError, ValueError) as problem:
                error = f"damaged after {walk.num_files} files: {problem}"
        path = folder.path(item.key)
        sources = tuple(_source(path, item, walk, member) for member in walk.members.values())
        stems = {_stem(walk, member) for member in walk.members.values()}
        num_used = sum(len(walk.carried[stem]) for stem in stems if stem)
        return Contents(sources, walk.num_files - len(sources) - num_used, error=error)

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path]:
        storage, key = place_of(source.uri).open_storage()
        check_unchanged(source, storage, key)
        with unnamed_file() as (copy, path):
            with storage.open(key) as file:
                file.seek(position_of(source))
                _copy(file, copy, source.size_bytes)
            yield path


def _walk(file: IO[bytes], walk: _Walk) -> None:
    """Note every file in the archive.

    Raises:
        tarfile.TarError, OSError, ValueError: damaged; what came before is noted.
    """
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
            if not member.isreg() or posixpath.basename(member.name).startswith("."):
                continue
            walk.num_files += 1
            _note(file, walk, member)
        _check_end(file, archive.offset)


def _note(file: IO[bytes], walk: _Walk, member: tarfile.TarInfo) -> None:
    kind = kind_of(member.name)
    stem, suffix = posixpath.splitext(member.name)
    if kind is not None:
        if member.issparse():
            raise tarfile.ReadError(f"{member.name} is stored as a sparse file")
        walk.members.pop(member.name, None)
        walk.members[member.name] = _Member(member.name, kind, member.offset_data, member.size)
    elif suffix in SIDECAR_SUFFIXES and member.size <= MAX_SIDECAR_BYTES:
        file.seek(member.offset_data)
        walk.carried.setdefault(stem, {})[suffix] = from_sidecar(suffix, file.read(member.size))


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


def _stem(walk: _Walk, member: _Member) -> str | None:
    """The name under which sidecars of a member stand: without its suffix, or up to the first dot."""
    folder, name = posixpath.split(member.name)
    stems = (posixpath.splitext(member.name)[0], posixpath.join(folder, name.partition(".")[0]))
    return next((stem for stem in stems if stem in walk.carried), None)


def _source(path: str, item: Listed, walk: _Walk, member: _Member) -> Source:
    stem = _stem(walk, member)
    said = walk.carried[stem] if stem else {}
    uri = printable(Place("tar", path, member.name).uri)
    return Source(
        source_id=stable_id(uri),
        uri=uri,
        kind=member.kind,
        size_bytes=member.size_bytes,
        etag=part_etag(item.etag, member.offset_bytes),
        carried={key: value for suffix in SIDECAR_SUFFIXES for key, value in said.get(suffix, {}).items()},
    )


def _copy(file: IO[bytes], copy: IO[bytes], size_bytes: int) -> None:
    left = size_bytes
    while left and (data := file.read(min(left, _COPY_BYTES))):
        copy.write(data)
        left -= len(data)
    copy.flush()
    if left:
        raise ProbeError(f"the tar ends {left} bytes before this member does")
