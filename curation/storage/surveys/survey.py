"""What lies below the inputs: every file once, in folders and in buckets alike.

survey(["in", "s3://photos/2026"], takes=lambda name: name.endswith(".jpg"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from curation.storage import open_storage
from curation.storage.surveys.folders import survey_folders
from curation.storage.surveys.records import Survey


def survey(roots: Sequence[str], takes: Callable[[str], bool]) -> list[Survey]:
    """One survey per root, in their order. `takes` says whether a file of this name is one to read.

    Raises:
        StorageError: a folder or a bucket can't be read.
        ConfigError: a root is a URL of an unknown kind.
    """
    is_local = [open_storage(root).is_local for root in roots]
    folders = [root for root, local in zip(roots, is_local, strict=True) if local]
    found = iter(survey_folders(folders, takes))
    if all(is_local):
        return list(found)
    from curation.storage.surveys.buckets import survey_buckets

    urls = [root for root, local in zip(roots, is_local, strict=True) if not local]
    found_in_buckets = iter(survey_buckets(urls, takes))
    return [next(found if local else found_in_buckets) for local in is_local]
