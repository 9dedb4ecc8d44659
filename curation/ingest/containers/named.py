"""Files that rows of a table name: which listed file is meant, and what is said if there is none.

Nothing but a listed file is ever taken, so no row can lead to another folder or to a device.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.ingest.containers.reader import Entry
from curation.ingest.locator import printable
from curation.ingest.suffixes import kind_of
from curation.records import MetadataValue
from curation.storage.buckets.connection import BUCKET_SCHEMES

PATH_COLUMNS = (
    "file_name", "filename", "file_path", "filepath", "path", "local_path", "image_path", "video_path",
    "image", "video", "file", "url", "URL", "image_url", "video_url", "file_names", "images", "videos",
)  # fmt: skip
"""Columns that may name files, the first that does counts."""
NAMED_FILE = "file_name"
"""Under this name a failed source carries the path that its row names."""
_WINDING = r"(^|/)\.{0,2}(/|$)"
"""Paths with `.`, `..` or nothing between slashes: rare, and Python knows best what they lead to."""
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
    return isinstance(first, str) and _may_be_in_an_input(first) and kind_of(first) is not None


def _may_be_in_an_input(path: str) -> bool:
    scheme, separator, _ = path.partition("://")
    return not separator or scheme in BUCKET_SCHEMES


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


def failed_metadata(path: str, carried: str | None) -> dict[str, MetadataValue]:
    """What a row carries whose file is not there. `carried` is JSON."""
    others = json.loads(carried or "{}")
    return {NAMED_FILE: path, **others} if path else others


def why_absent(metadata: Mapping[str, MetadataValue]) -> str:
    """What is wrong with a row that holds no media, and whose file is not there."""
    path = metadata.get(NAMED_FILE)
    return (
        f"it names {path!r}, which is no file of the input" if path else "it holds no media and names no file"
    )


def find_files(
    root: str, names: pa.Array, lists: Sequence[str], of_list: pa.Array, paths: pa.Array
) -> pa.Array:
    """Which files of an input are meant: their rows, null where a path is that of none.

    A path leads to a file beside the list that names it, else to one below the input, also if it is
    absolute, or the URL of an object.

    Args:
        root: The input as the URIs of its sources begin.
        names: Of all files of the input.
        lists: Names of the containers that name files.
        of_list: For each path, which container names it.
        paths: As the containers spell them.
    """
    if not len(paths):
        return pa.nulls(0, pa.int32())
    folders = pa.array(
        [f"{folder}/" if folder else "" for folder in map(posixpath.dirname, lists)], pa.string()
    )
    beside = pc.binary_join_element_wise(folders.take(of_list), paths, "")
    start = f"{root}/"
    below = pc.if_else(pc.starts_with(paths, start), pc.utf8_slice_codeunits(paths, len(start)), paths)
    # The slashes of a URL wind nowhere; the dots in the name of an input may, for a list beside it.
    is_path = pc.invert(pc.match_substring(paths, "://"))
    is_winding = pc.or_(
        pc.match_substring_regex(below, _WINDING),
        pc.and_(is_path, pc.match_substring_regex(paths, _WINDING)),
    )
    if pc.any(is_winding).as_py():
        of_winding = zip(of_list.filter(is_winding).to_pylist(), paths.filter(is_winding), strict=True)
        keys = [_keys(root, lists[number], path.as_py()) for number, path in of_winding]
        beside, below = (
            pc.replace_with_mask(column, is_winding, pa.array(found, pa.string()))
            for column, found in zip((beside, below), zip(*keys, strict=True), strict=True)
        )
    return pc.coalesce(pc.index_in(beside, value_set=names), pc.index_in(below, value_set=names))


def _keys(root: str, name: str, path: str) -> tuple[str, str]:
    """Where a path may lead to: beside the container of this name, or below the input."""
    beside = posixpath.join(posixpath.dirname(name), path)
    root = posixpath.abspath(root) if path.startswith("/") else root
    return posixpath.normpath(beside), posixpath.normpath(path.removeprefix(f"{root}/"))
