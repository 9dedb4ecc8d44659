"""What lies below prefixes of buckets, and of data sets on the Hub: every object once, told apart from the
marks of folders.

    survey_buckets(["s3://photos", "s3://photos/2026"], takes=lambda name: name.endswith(".jpg"))

A bucket knows no folders, so that a folder is what keys have in common up to a slash. Some tools put an empty
object `a/b/` there to mark a folder: it is no file. Keys stay columns, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.storage.base import Storage
from curation.storage.buckets.bucket import BucketStorage
from curation.storage.buckets.connection import Place, place_of
from curation.storage.buckets.listing import NUM_THREADS, OBJECTS, list_objects
from curation.storage.buckets.unreadable import WHY_UNREADABLE
from curation.storage.hub.place import is_on_hub
from curation.storage.hub.repository import HubStorage
from curation.storage.surveyed import FILES, READ_AS_FOLDER, Survey, by_key


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
    for number in sorted(range(len(urls)), key=lambda number: len(places[number].prefix)):
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
    found = list_objects(storage)
    files = found.in_order()
    folders = _folders(files)
    files, marked = _without_marks(files, folders, storage)
    is_named = pc.match_substring_regex(folders, r"\.[^/]*$")
    called_like_files = {key for key in [*folders.filter(is_named).to_pylist(), *marked] if takes(key)}
    not_files = dict.fromkeys(found.unreadable, WHY_UNREADABLE)
    not_files |= dict.fromkeys(called_like_files, READ_AS_FOLDER)
    # A hidden folder may be marked, too.
    hidden = [key for key in found.hidden if f"{key}/" not in found.hidden]
    return Survey(files.cast(FILES), hidden, not_files)


def _folders(files: pa.Table) -> pa.Array:
    """The folders of keys, where they matter: where one may be called like a file, or may be marked."""
    level = files["key"].combine_chunks()
    if not pc.any(pc.equal(files["size_bytes"], 0)).as_py():
        level = level.filter(pc.match_substring_regex(level, r"\.[^/]*/"))
    found = []
    while len(level):
        level = level.filter(pc.match_substring(level, "/"))
        level = pc.unique(pc.replace_substring_regex(level, r"/[^/]*$", ""))
        found.append(level)
    return pc.unique(pa.concat_arrays(found)) if found else pa.array([], pa.string())


def _without_marks(files: pa.Table, folders: pa.Array, storage: Storage) -> tuple[pa.Table, list[str]]:
    """Files without the objects that only mark folders, and the keys of folders with nothing in them.

    Listed without the slash at its end, the mark of an empty folder looks like an empty object, or like
    another object of the same key: the bucket is asked whether there is one.
    """
    keys = files["key"].combine_chunks()
    is_empty = np.asarray(pc.equal(files["size_bytes"], 0))
    is_double = np.zeros(len(keys), bool)
    is_double[1:] = pc.equal(keys[1:], keys[:-1])
    is_double[:-1] |= is_double[1:]
    is_mark = is_empty & np.asarray(pc.is_in(keys, value_set=folders))
    is_unsure = (is_empty | is_double) & ~is_mark
    if not (is_unsure | is_mark).any():
        return files, []
    unsure = pc.unique(keys.filter(pa.array(is_unsure))).to_pylist()
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        found = list(threads.map(storage.find, unsure))
    there = [(item.key, item.size_bytes, item.etag) for item in found if item is not None]
    rows = [dict(zip(OBJECTS.names, row, strict=True)) for row in there]
    sure = files.filter(pa.array(~(is_unsure | is_mark)))
    marked = [key for key, item in zip(unsure, found, strict=True) if item is None]
    return by_key(pa.concat_tables([sure, pa.Table.from_pylist(rows, schema=OBJECTS)])), marked
