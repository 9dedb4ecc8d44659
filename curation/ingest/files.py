"""Plain files: each picture or video is a source, with what NAME.txt and NAME.json beside it say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from curation.errors import ProbeError
from curation.ingest.carried import MAX_SIDECAR_BYTES, SIDECAR_SUFFIXES, from_sidecar
from curation.ingest.place import place_of, printable
from curation.ingest.reader import Contents, Folder
from curation.ingest.suffixes import kind_of
from curation.records import Carried, Source, stable_id
from curation.storage import Listed
from curation.storage.survey import describe_mode


class FileReader:
    """Reads folders of files."""

    scheme = ""

    def takes(self, key: str) -> bool:
        return kind_of(key) is not None

    def list(self, folder: Folder, item: Listed) -> Contents:
        source = source_of_file(folder, item)
        used = frozenset(sidecar.key for sidecar in _sidecars(folder, item))
        return Contents((source,) if source else (), used=used)

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path]:
        storage, key = place_of(source.uri).open_storage()
        with storage.local_path(key) as path:
            _check_readable(path)
            yield path


def source_of_file(folder: Folder, item: Listed) -> Source | None:
    """A file as a source, with its sidecars; None if it is no media."""
    kind = kind_of(item.key)
    if kind is None:
        return None
    carried: dict[str, Carried] = {}
    for sidecar in _sidecars(folder, item):
        data = folder.storage.read(sidecar.key)
        carried |= from_sidecar(PurePosixPath(sidecar.key).suffix, data or b"")
    uri = printable(folder.path(item.key))
    return Source(
        source_id=stable_id(uri),
        uri=uri,
        kind=kind,
        size_bytes=item.size_bytes,
        etag=item.etag,
        carried=carried,
    )


def _check_readable(path: Path) -> None:
    """Make sure that there is a file to open.

    Raises:
        ProbeError: there is none, it is something else (a FIFO is never opened), or it may not be read.
    """
    try:
        what = describe_mode(path.stat().st_mode)
        if what is not None:
            raise ProbeError(f"it is {what}, not a file")
        path.open("rb").close()
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise ProbeError(
                f"it is a link to {printable(str(path.readlink()))}, which is not there"
            ) from error
        raise ProbeError(f"the file can't be opened: {error.strerror}") from error


def _sidecars(folder: Folder, item: Listed) -> list[Listed]:
    names = (PurePosixPath(item.key).with_suffix(suffix).as_posix() for suffix in SIDECAR_SUFFIXES)
    found = (folder.items.get(name) for name in names)
    return [sidecar for sidecar in found if sidecar and sidecar.size_bytes <= MAX_SIDECAR_BYTES]
