"""Whether inputs and output can be used, found out before any work.

    check_input("s3://photos/raw")
    check_output("s3://photos/out")

Folders need no such check: they are looked at when they are listed or written to, which costs nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from curation.storage.buckets.connection import BUCKET_SCHEMES


def check_input(root: str) -> None:
    """Raises StorageError: what lies in a bucket can't be read, and why."""
    if _is_in_bucket(root):
        from curation.storage.buckets.access import check_reading

        check_reading(root)


def check_output(root: str) -> None:
    """Raises StorageError: a bucket can't be written to, and why."""
    if _is_in_bucket(root):
        from curation.storage.buckets.access import check_writing

        check_writing(root)


def clock_of(root: str) -> float:
    """The time by the clock of a place that is written to, in seconds since 1970; nothing is left there.

    Raises:
        StorageError: a bucket can't be written to, and why.
        OSError: a folder can't be written to.
    """
    if _is_in_bucket(root):
        from curation.storage.buckets.access import clock_of_bucket

        return clock_of_bucket(root)
    there = next(one for one in (Path(root).absolute(), *Path(root).absolute().parents) if one.is_dir())
    with tempfile.NamedTemporaryFile(dir=there) as file:
        return Path(file.name).stat().st_mtime


def _is_in_bucket(root: str) -> bool:
    return root.partition("://")[0] in BUCKET_SCHEMES and "://" in root
