"""Keys that obstore refuses: with nothing, `.` or `..` between two slashes, or with control characters.

    batches, unreadable = around_unreadable(storage, "photos", batches, error)

Such objects can't be read. One of them in a page of a listing takes the rest of the listing with it, so that
the keys around it are found by another client, Arrow's, which gives names and no versions, and then one by
one, until obstore's listing can go on behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.storage.buckets.bucket import BucketStorage
from curation.storage.buckets.connection import connect_arrow, place_of
from curation.storage.buckets.retries import UnreadableKey

SLASH = "/"
"""How keys that begin with a slash are told."""
WHY_UNREADABLE = "can't be read, for an empty part, `.`, `..` or a control character in the key"
_UNREADABLE = r"^(?P<unreadable>(?:[^/]+/)*?(?:\.{0,2}(?:/|$)|[^/]*[\x00-\x1f\x7f][^/]*/?))"
"""A key that can't be read, up to the part that is to blame."""
_ASKED_TOGETHER = 1000
_NUM_THREADS = 16


def around_unreadable(
    storage: BucketStorage, folder: str, batches: Iterable[pa.RecordBatch], error: UnreadableKey
) -> tuple[list[pa.RecordBatch], set[str]]:
    """What lies in a folder whose listing broke off, and the unreadable keys in it.

    Args:
        storage: Where.
        folder: Its key.
        batches: What was listed before.
        error: What ended the listing.

    Returns:
        All objects of the folder that can be read, as `BucketStorage.batches` gives them, and the other keys
        up to the part that is to blame.

    Raises:
        StorageError: Arrow can't list the folder; or the provider is one that it isn't asked about.
    """
    names = _names_below(storage, folder, error)
    parts = pc.struct_field(pc.extract_regex(names, _UNREADABLE), "unreadable")
    unreadable = set(pc.unique(parts.drop_null()).to_pylist()) or {
        error.key.removeprefix(f"{storage.prefix}/")
    }
    is_bad = np.asarray(parts.is_valid())
    found = list(batches)
    is_listed = _are_among(names, found)
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        while len(missing := np.flatnonzero(~is_bad & ~is_listed)):
            next_bad = missing[0] + int(np.argmax(is_bad[missing[0] :]))
            num_before = int(np.searchsorted(missing, next_bad))
            asked = missing[: min(num_before + 1, _ASKED_TOGETHER)]
            keys = names.take(pa.array(asked)).to_pylist()
            found.append(_as_batch(storage, keys, threads))
            is_listed[asked] = True
            more = list(_until_unreadable(storage.batches(folder, after=keys[-1])))
            found += more
            is_listed |= _are_among(names, more)
    # Of a key that begins with a slash obstore gives the rest.
    return [batch.filter(pc.is_in(batch["key"], value_set=names)) for batch in found], unreadable


def _are_among(names: pa.Array, batches: Iterable[pa.RecordBatch]) -> NDArray[np.bool_]:
    """Which of these keys were listed."""
    keys = [batch["key"] for batch in batches]
    if not keys:
        return np.zeros(len(names), bool)
    return np.array(pc.is_in(names, value_set=pa.concat_arrays(keys)))


def _names_below(storage: BucketStorage, folder: str, error: UnreadableKey) -> pa.Array:
    """Keys of all objects of a folder, in the order in which they are listed."""
    from pyarrow.fs import FileSelector, FileType

    files = connect_arrow(place_of(storage.root))
    if files is None:
        raise error
    top = "/".join(filter(None, (storage.root.partition("://")[2], folder)))
    start = f"{top.removesuffix(folder)}" if folder else f"{top}/"
    found = files.get_file_info(FileSelector(top, recursive=True, allow_not_found=True))
    return pa.array(
        [info.path.removeprefix(start) for info in found if info.type == FileType.File], pa.string()
    )


def _as_batch(storage: BucketStorage, keys: list[str], threads: ThreadPoolExecutor) -> pa.RecordBatch:
    """Objects as `BucketStorage.batches` gives them, asked for one by one."""
    items = [item for item in threads.map(storage.find, keys) if item is not None]
    columns = [
        pa.array([item.key for item in items], pa.string()),
        pa.array([item.size_bytes for item in items], pa.int64()),
        pa.array([item.etag for item in items], pa.string()),
    ]
    return pa.record_batch(columns, names=["key", "size_bytes", "etag"])


def _until_unreadable(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except UnreadableKey:
        return
