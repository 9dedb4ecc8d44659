"""Whether inputs and output can be used, found out before any work.

    check_input("s3://photos/raw")
    check_output("s3://photos/out")

A run needs no such check of folders: they are looked at when they are listed or written to, which costs
nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from curation.storage.buckets.connection import BUCKET_SCHEMES
from curation.storage.local import named_errors


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
        StorageError: it can't be written to, and why.
    """
    if _is_in_bucket(root):
        from curation.storage.buckets.access import clock_of_bucket

        return clock_of_bucket(root)
    with named_errors(root), tempfile.NamedTemporaryFile(dir=part_that_is_there(root)) as file:
        return Path(file.name).stat().st_mtime


def check_writing_below(root: str) -> Path:
    """The part of a folder's path that is there, in which files can be made; nothing is left there.

    Raises:
        StorageError: none can be made, and why.
    """
    with named_errors(root):
        there = part_that_is_there(root)
    with named_errors(there), tempfile.TemporaryFile(dir=there):
        return there


def part_that_is_there(root: str) -> Path:
    """The longest part of a path that there is, be it a file."""
    path = Path(root).absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def _is_in_bucket(root: str) -> bool:
    return root.partition("://")[0] in BUCKET_SCHEMES and "://" in root
