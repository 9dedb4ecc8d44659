"""What an output holds that no configuration uses, for `curation gc`.

for folder in unused_folders(storage, [pipeline, ...]):
print(folder.name, folder.num_bytes)
remove(storage, folder)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from curation.ingest.containers.index import ListingIndex
from curation.ingest.inputs import input_roots
from curation.ingest.locator import Locator, locator_of, plain_uri
from curation.ledger.present import PRESENT, listed_uris
from curation.pipeline import Pipeline
from curation.records import stable_id
from curation.storage import Listed, Storage

_FOLDERS = {
    "ledger": re.compile(r"ledger/[^/]+/[^/]+(?=/)"),
    "shards": re.compile(r"shards/[^/]+(?=/)"),
    "listing": re.compile(r"listing/[^/]+\.parquet$"),
}
"""Top folder of an output -> what is removed as a whole below it: rows of one fingerprint, the shards of one
name, the listing of one container."""


@dataclass(frozen=True)
class UnusedFolder:
    """Objects that are removed together.

    Attributes:
        name: Their folder, or the only object's key.
        items: The objects.
    """

    name: str
    items: tuple[Listed, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all objects."""
        return sum(item.size_bytes for item in self.items)


def unused_folders(storage: Storage, pipelines: Collection[Pipeline]) -> Iterator[UnusedFolder]:
    """What none of the pipelines reads or writes, in order of names.

    Args:
        storage: The output of all of them.
        pipelines: With their dataset-wide steps bound: rows of another population are not used.
    """
    used = {*_used_folders(pipelines), *_used_listings(storage)}
    roots = {root for pipeline in pipelines for root in input_roots(pipeline.config)}
    for top, pattern in _FOLDERS.items():
        found = ((match[0], item) for item in storage.list(top) if (match := pattern.match(item.key)))
        for name, together in groupby(found, lambda pair: pair[0]):
            if name not in used and not (top == "listing" and _is_of_container(storage, name, roots)):
                yield UnusedFolder(name, tuple(item for _, item in together))


def remove(storage: Storage, folder: UnusedFolder) -> None:
    """Delete the objects of a folder. Only for who holds the output alone.

    Of shards the manifest goes first, so that what a kill leaves is not taken for a whole set.
    """
    for item in sorted(folder.items, key=lambda item: not item.key.endswith(".json")):
        storage.delete(item.key)


def _used_folders(pipelines: Iterable[Pipeline]) -> Iterator[str]:
    for pipeline in pipelines:
        for step in pipeline.steps():
            yield f"ledger/{step.name}/{step.fingerprint}"
        if pipeline.config.shards is not None:
            yield pipeline.config.shards_folder


def _is_of_container(storage: Storage, key: str, roots: Collection[str]) -> bool:
    """Whether an object is the listing of a container that is still in one of the inputs.

    It may hold no media, or name files that are sources of their own, so that no source tells of it.
    """
    uri = ListingIndex(storage).listed_container(key)
    if uri is None:
        return False
    locator = locator_of(uri)
    path = plain_uri(locator.path)
    if not any(path.startswith(f"{plain_uri(root).rstrip('/')}/") for root in roots):
        return False
    folder, name = locator.open_storage()
    return folder.find(name) is not None


def _used_listings(storage: Storage) -> Iterator[str]:
    """The listing of the inputs, and those of the containers in it."""
    yield PRESENT
    containers = set()
    for uri in listed_uris(storage):
        locator = locator_of(uri)
        containers.add(Locator(locator.scheme, locator.path).uri if locator.part else uri)
    for uri in containers:
        yield f"listing/{stable_id(uri)}.parquet"
