"""Plain files: each picture or video is a source, with what NAME.txt and NAME.json beside it say."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from curation.errors import StorageError
from curation.ingest.carried import MAX_SIDECAR_BYTES, PROBLEM, from_sidecar, from_sidecars
from curation.ingest.place import place_of, printable
from curation.ingest.reader import Contents, Folder
from curation.media.probe import kind_of
from curation.records import Carried, Source, SourceKind, stable_id
from curation.storage import Listed


class FileReader:
    """Reads folders of files."""

    scheme = ""

    def takes(self, key: str) -> bool:
        return kind_of(key) is not None

    def list(self, folder: Folder, item: Listed) -> Contents:
        """A file as a source."""
        source = source_of_file(folder, item)
        used = frozenset(sidecar.key for sidecar in _sidecars(folder, item).values())
        return Contents((source,) if source else (), used=used)

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path]:
        storage, key = place_of(source.uri).open_storage()
        with storage.local_path(key) as path:
            yield path


def source_of_file(folder: Folder, item: Listed, kind: SourceKind | None = None) -> Source | None:
    """A file as a source, with its sidecars; None if its name is not that of media, and no kind is given."""
    kind = kind_of(item.key) or kind
    if kind is None:
        return None
    uri = printable(folder.path(item.key))
    return Source(
        source_id=stable_id(uri),
        uri=uri,
        kind=kind,
        size_bytes=item.size_bytes,
        etag=item.etag,
        carried=_carried(folder, item),
    )


def _carried(folder: Folder, item: Listed) -> dict[str, Carried]:
    sidecars = _sidecars(folder, item).items()
    return from_sidecars({suffix: _said(folder, suffix, sidecar) for suffix, sidecar in sidecars})


def _said(folder: Folder, suffix: str, sidecar: Listed) -> dict[str, Carried]:
    try:
        data = folder.storage.read(sidecar.key)
    except StorageError as error:
        return {PROBLEM: printable(f"the {suffix} file beside it can't be read: {error}")}
    return {} if data is None else from_sidecar(suffix, data)


def _sidecars(folder: Folder, item: Listed) -> Mapping[str, Listed]:
    """The files of the same name, by suffix in lower case."""
    found = folder.sidecars.get(posixpath.splitext(item.key)[0], {})
    return {suffix: sidecar for suffix, sidecar in found.items() if sidecar.size_bytes <= MAX_SIDECAR_BYTES}
