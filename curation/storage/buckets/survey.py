"""What lies below prefixes of buckets, and of data sets on the Hub: every object once, told apart from the
marks of folders.

    survey_buckets(["s3://photos", "s3://photos/2026"], takes=lambda name: name.endswith(".jpg"))

A bucket knows no folders, so that a folder is what keys have in common up to a slash. Some tools put an empty
object `a/b/` there to mark a folder: it is no file. Keys stay columns, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from curation.storage.base import Storage
from curation.storage.buckets.bucket import BucketStorage
from curation.storage.buckets.connection import Place, place_of
from curation.storage.hub.place import is_on_hub
from curation.storage.hub.repository import HubStorage
from curation.storage.surveyed import FILES, READ_AS_FOLDER, Survey, by_key

_NUM_THREADS = 16
_HIDDEN = r"^(?P<hidden>(?:[^./][^/]*/)*\.[^/]*/?)"
"""A key with a part that begins with a dot, up to this part."""


def survey_buckets(urls: Sequence[str], takes: Callable[[str], bool]) -> list[Survey]:
    """One survey per URL, in their order. `takes` says whether a file of this name is one to read.

    Raises:
        StorageError: a bucket can't be listed.
        ConfigError: a URL names no bucket.
    """
    places = [place_of(url) for url in urls]
    surveys = [Survey() for _ in urls]
    read: list[int] = []
    # The outer of two places comes first, so that the inner one is found in it as a whole.
    for number in sorted(range(len(urls)), key=lambda number: places[number].prefix.count("/")):
        outer = next((other for other in read if _reaches(places[other], places[number])), None)
        if outer is None:
            surveys[number] = _survey(urls[number], takes)
            read.append(number)
            continue
        below = _below(places[outer], places[number])
        if _is_any_below(surveys[outer], below):
            surveys[number].repeated[""] = f"{urls[outer].rstrip('/')}/{below}" if below else urls[outer]
    return surveys


def _below(outer: Place, inner: Place) -> str:
    """The key of a place in another one."""
    return inner.prefix.removeprefix(outer.prefix).lstrip("/")


def _reaches(outer: Place, inner: Place) -> bool:
    """Whether all that lies in one place is found by listing another one."""
    is_inside = outer.prefix in ("", inner.prefix) or inner.prefix.startswith(f"{outer.prefix}/")
    is_same = (outer.scheme, outer.bucket) == (inner.scheme, inner.bucket)
    return is_same and is_inside and not any(part[:1] == "." for part in _below(outer, inner).split("/"))


def _is_any_below(found: Survey, folder: str) -> bool:
    start = f"{folder}/" if folder else ""
    if any(key.startswith(start) for key in found.hidden):
        return True
    return bool(pc.any(pc.starts_with(found.files["key"], start)).as_py())


def _survey(url: str, takes: Callable[[str], bool]) -> Survey:
    """What lies below one URL."""
    storage = HubStorage(url) if is_on_hub(url) else BucketStorage(url)
    found, hidden = [], set[str]()
    for batch in storage.batches(""):
        names = pc.struct_field(pc.extract_regex(batch["key"], _HIDDEN), "hidden")
        hidden.update(pc.unique(names.drop_null()).to_pylist())
        found.append(batch.filter(pc.and_(names.is_null(), pc.not_equal(batch["key"], ""))))
    columns = pa.schema([("key", pa.string()), *list(FILES)[1:]])
    files = by_key(pa.Table.from_batches(found, columns))
    folders = _folders(files)
    files, marked = _without_marks(files, folders, storage)
    named = {key for key in [*_called_like_files(folders), *marked] if takes(key)}
    return Survey(files.cast(FILES), sorted(hidden), dict.fromkeys(sorted(named), READ_AS_FOLDER))


def _folders(files: pa.Table) -> pa.Array:
    """The folders of keys, where they matter: where one is called like a file, or may be marked."""
    keys = files["key"].combine_chunks()
    has_empty = pc.any(pc.equal(files["size_bytes"], 0)).as_py()
    level = keys if has_empty else keys.filter(pc.match_substring_regex(keys, r"\.[^/]*/"))
    found = []
    while len(level):
        level = level.filter(pc.match_substring(level, "/"))
        level = pc.unique(pc.replace_substring_regex(level, r"/[^/]*$", ""))
        found.append(level)
    return pc.unique(pa.concat_arrays(found)) if found else pa.array([], pa.string())


def _called_like_files(folders: pa.Array) -> list[str]:
    names: list[str] = folders.filter(pc.match_substring_regex(folders, r"\.[^/]*$")).to_pylist()
    return names


def _without_marks(files: pa.Table, folders: pa.Array, storage: Storage) -> tuple[pa.Table, list[str]]:
    """Files without the empty objects that only mark folders, and the keys of folders with nothing in them.

    Listed without the slash at its end, the mark of an empty folder looks like an empty object: the bucket is
    asked whether there is one.
    """
    is_empty = pc.equal(files["size_bytes"], 0)
    if not pc.any(is_empty).as_py():
        return files, []
    others, empty = files.filter(pc.invert(is_empty)), files.filter(is_empty)
    known = pa.concat_arrays([folders, others["key"].combine_chunks()])
    unsure = pc.unique(empty["key"].filter(pc.invert(pc.is_in(empty["key"], value_set=known)))).to_pylist()
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        found = list(threads.map(storage.find, unsure))
    there = [item for item in found if item is not None]
    rows = [[item.key for item in there], [item.size_bytes for item in there], [item.etag for item in there]]
    real = pa.table([pa.array(*of) for of in zip(rows, files.schema.types, strict=True)], schema=files.schema)
    marked = [key for key, item in zip(unsure, found, strict=True) if item is None]
    return by_key(pa.concat_tables([others, real])), marked
