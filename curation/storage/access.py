"""Whether inputs and output can be used, found out before any work.

    check_input("s3://photos/raw")
    check_output("s3://photos/out")

Folders need no such check: they are looked at when they are listed or written to, which costs nothing.
"""

from __future__ import annotations

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


def _is_in_bucket(root: str) -> bool:
    return root.partition("://")[0] in BUCKET_SCHEMES and "://" in root
