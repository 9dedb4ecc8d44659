"""Files that rows of a table name: which listed file is meant, and what is said if there is none.

Nothing but a listed file is ever taken, so no row can lead to another folder or to a device.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from curation.ingest.containers.reader import Entry, Folder, source_in
from curation.ingest.files import source_of_file
from curation.ingest.locator import printable
from curation.ingest.metadata import merged
from curation.ingest.suffixes import kind_of
from curation.records import MetadataValue, Source
from curation.storage import Listed

PATH_COLUMNS = (
    "file_name", "filename", "file_path", "filepath", "path", "local_path", "image_path", "video_path",
    "image", "video", "file", "url", "URL", "image_url", "video_url", "file_names", "images", "videos",
)  # fmt: skip
"""Columns that may name files, the first that does counts."""
NAMED_FILE = "file_name"
"""Under this name a failed source carries the path that its row names."""
_PATH_COLUMN_ENDS = ("_file_name", "_file_names")
"""Hugging Face's imagefolder reads several files per row from columns that end so."""


def naming_columns(columns: Collection[str], first: Callable[[str], object]) -> tuple[str, ...]:
    """Those of `columns` that name files: the first of `PATH_COLUMNS` that does, else all of imagefolder's.

    `first` gives the first value of a column.
    """
    for name in PATH_COLUMNS:
        if name in columns and names_media(first(name)):
            return (name,)
    return tuple(name for name in columns if name.endswith(_PATH_COLUMN_ENDS) and names_media(first(name)))


def names_media(value: object) -> bool:
    """Whether a value is the path of a picture or a video, or a list that begins with one."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, str) and "://" not in first and kind_of(first) is not None


def named_entries(
    values: dict[str, Any],
    names: Sequence[str],
    position: int,
    metadata: Callable[[dict[str, Any]], dict[str, MetadataValue]],
) -> Iterator[Entry]:
    """What a row of a table stands for: an entry for each file that it names, with its other values.

    A row that names none is an entry too: it has failed, and keeps all that it says.
    """
    paths = [
        (name if len(names) > 1 else "", index, path)
        for name in names
        for index, path in enumerate(_paths(values.get(name)))
    ]
    others = metadata({name: value for name, value in values.items() if name not in names})
    for name, index, path in paths or [("", 0, "")]:
        steps = [str(position), name, str(index) if len(paths) > 1 else ""]
        part = printable("/".join(step for step in steps if step))
        yield Entry(part, kind_of(path) or "image", position, metadata=others, path=printable(path))


def _paths(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, str) and path]


def resolved(folder: Folder, item: Listed, scheme: str, entry: Entry) -> tuple[Source, str | None]:
    """The file that an entry of the container `item` names, and its key; without a file a failed source."""
    path = entry.path or ""
    target = _target(folder, item, path)
    source = source_of_file(folder, target, entry.kind) if target else None
    if target is None or source is None:
        failed = source_in(folder.path(item.key), item, scheme, entry)
        failed = replace(failed, metadata={NAMED_FILE: path, **entry.metadata} if path else entry.metadata)
        return replace(failed, error_type="ProbeError", error=why_absent(failed)), None
    return replace(source, metadata=merged(source.metadata, entry.metadata)), target.key


def why_absent(source: Source) -> str:
    """What is wrong with a row that holds no media, and whose file is not there."""
    path = source.metadata.get(NAMED_FILE)
    return (
        f"it names {path!r}, which is no file of the input" if path else "it holds no media and names no file"
    )


def _target(folder: Folder, item: Listed, path: str) -> Listed | None:
    found = (folder.items.get(key) for key in _keys(folder, item, path))
    return next(filter(None, found), None)


def _keys(folder: Folder, item: Listed, path: str) -> tuple[str, str]:
    """Where a path may lead to: beside the container, or below the input, also if it is absolute."""
    beside = posixpath.join(posixpath.dirname(item.key), path)
    root = posixpath.abspath(folder.root) if path.startswith("/") else folder.root
    return posixpath.normpath(beside), posixpath.normpath(path.removeprefix(f"{root}/"))
