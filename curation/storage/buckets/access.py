"""Whether a bucket gives what a run needs of it, found out before any work.

check_reading("s3://photos/raw")
check_writing("s3://photos/out")        # and whether it knows conditional writes
"""

from __future__ import annotations

import uuid
from contextlib import suppress

from curation.errors import StorageError, WriteConflict
from curation.storage.base import ABSENT
from curation.storage.buckets.client import BucketClient
from curation.storage.buckets.connection import Place, place_of
from curation.storage.retries import START_LIMIT_S

_probed: set[Place] = set()


def check_reading(url: str) -> None:
    """Raises StorageError: what lies there can't be listed, and why."""
    place = place_of(url)
    BucketClient(place, START_LIMIT_S).peek(place.prefix)


def check_writing(url: str) -> None:
    """Find out, once per process, if objects can be written, compared and removed; none is left.

    Raises:
        StorageError: they can't, and why.
    """
    place = place_of(url)
    if place in _probed:
        return
    client = BucketClient(place, START_LIMIT_S)
    client.peek(place.prefix)
    _check_is_folder(client, place)
    path = _test_path(place)
    try:
        version = client.put(path, b"first", ABSENT)
        is_compared = _is_refused(client, path, b"second", ABSENT)
        if is_compared:
            client.put(path, b"third", version)
            is_compared = _is_refused(client, path, b"fourth", version)
    finally:
        client.delete(path)
    if not is_compared:
        client.do_without_conditions()
    _probed.add(place)


def clock_of_bucket(url: str) -> float:
    """The server's time by what it says of an object that is written and removed, in whole seconds."""
    place = place_of(url)
    client = BucketClient(place, START_LIMIT_S)
    path = _test_path(place)
    try:
        client.put(path, b"now")
        written: float = client.head(path)["last_modified"].timestamp()
        return written
    finally:
        client.delete(path)


def _test_path(place: Place) -> str:
    return f"{place.prefix}/.write-test-{uuid.uuid4().hex[:12]}".lstrip("/")


def _check_is_folder(client: BucketClient, place: Place) -> None:
    """Raises StorageError: an object has the name that a folder should have, and it is no mark of one."""
    if not place.prefix:
        return
    with suppress(FileNotFoundError):
        if client.head(place.prefix)["size"]:
            raise StorageError(f"{place.url} is an object, and no folder to write into")


def _is_refused(client: BucketClient, path: str, data: bytes, expect: str) -> bool:
    try:
        client.put(path, data, expect)
    except WriteConflict:
        return True
    return False
