"""Lists what lies below a bucket's prefix as columns, several folders at a time, in no order.

    found = list_objects(BucketStorage("s3://photos"))
    found.in_order(), found.hidden, found.unreadable

A page of a listing names up to 1000 keys and costs a round trip, and the next one can't be asked for before.
So a large folder whose inner folders are large, too, is listed by these. No order of keys is relied on: AWS
sorts them by their bytes, other servers don't.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from curation.storage.buckets.bucket import BucketStorage
from curation.storage.buckets.retries import UnreadableKey
from curation.storage.buckets.unreadable import SLASH, around_unreadable
from curation.storage.surveyed import FILES, by_key

OBJECTS = pa.schema([FILES.field("key").with_type(pa.string()), *list(FILES)[1:]])
"""What a listing says of objects."""

NUM_THREADS = 16
_PAGE_KEYS = 1000
_MAX_ROOT_FOLDERS = 64
"""With no more folders at its root, a bucket is listed folder by folder."""
_HIDDEN = r"^(?P<hidden>(?:[^./][^/]*/)*\.[^/]*/?)"
"""A key with a part that begins with a dot, up to this part."""


@dataclass
class ListedObjects:
    """What was listed.

    Attributes:
        batches: What is neither hidden nor unreadable (`OBJECTS`). An object that only marks a folder has the
            key of the folder.
        hidden: The others' keys up to the part that begins with a dot; folders end with `/`.
        unreadable: Keys that can't be read, up to the part that is to blame.
    """

    batches: list[pa.RecordBatch] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)

    def add(self, batch: pa.RecordBatch) -> None:
        """Note objects as they were listed."""
        names = pc.struct_field(pc.extract_regex(batch["key"], _HIDDEN), "hidden")
        self.hidden.update(pc.unique(names.drop_null()).to_pylist())
        # The empty key is the mark of the folder that is listed.
        batch = batch.filter(pc.and_(names.is_null(), pc.not_equal(batch["key"], "")))
        if batch.num_rows:
            self.batches.append(batch)

    def in_order(self) -> pa.Table:
        """The objects, sorted by key; `batches` is empty afterwards, so that memory holds them once."""
        # Batches of a server that sorts keys need no more than this; `by_key` sees to the others.
        batches = sorted(self.batches, key=lambda batch: batch["key"][0].as_buffer().to_pybytes())
        self.batches = []
        return by_key(pa.Table.from_batches(batches, OBJECTS))


class Listable(Protocol):
    """What can be listed at all."""

    def batches(self, prefix: str) -> Iterator[pa.RecordBatch]:
        """Objects below the folder `prefix` (`OBJECTS`), in no order."""


def list_objects(storage: Listable) -> ListedObjects:
    """All objects of a storage; those of a bucket by several threads.

    Raises:
        StorageError: it can't be listed.
    """
    if not isinstance(storage, BucketStorage):
        found = ListedObjects()
        for batch in storage.batches(""):
            found.add(batch)
        return found
    threads = ThreadPoolExecutor(NUM_THREADS)
    try:
        return _ParallelListing(storage, threads).result()
    finally:
        threads.shutdown(cancel_futures=True)


class _ParallelListing:
    def __init__(self, storage: BucketStorage, threads: ThreadPoolExecutor) -> None:
        self._storage = storage
        self._threads = threads
        self._found = ListedObjects()
        self._num_waiting = 0

    def result(self) -> ListedObjects:
        first = self._list if self._storage.prefix else self._list_root
        waiting = {self._threads.submit(first, "")}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            folders = [folder for task in done for folder in task.result()]
            waiting |= {self._threads.submit(self._list, folder) for folder in folders}
            self._num_waiting = len(waiting)
        return self._found

    def _list(self, folder: str) -> list[str]:
        """List a folder, or only its own objects; the folders in it that are to be listed then."""
        batches: list[pa.RecordBatch] = []
        try:
            for batch in self._storage.batches(folder):
                if not batches and self._is_split(folder, batch):
                    return self._note_own(*self._storage.own(folder))
                batches.append(batch)
        except UnreadableKey as error:
            batches, unreadable = around_unreadable(self._storage, folder, batches, error)
            self._found.unreadable |= unreadable
        for batch in batches:
            self._found.add(batch)
        return []

    def _is_split(self, folder: str, first: pa.RecordBatch) -> bool:
        """Whether the folders in a folder are listed one by one, after a look at the first of its objects.

        That pays where each of them fills about a page, and while threads have nothing to do.
        """
        if first.num_rows < _PAGE_KEYS or self._num_waiting > NUM_THREADS:
            return False
        below = pc.utf8_slice_codeunits(first["key"], len(f"{folder}/") if folder else 0)
        inner = pc.struct_field(pc.extract_regex(below, r"^(?P<folder>[^/]*)/"), "folder").drop_null()
        num_folders = len(pc.unique(inner))
        return bool(2 * len(inner) >= max(first.num_rows, num_folders * _PAGE_KEYS))

    def _list_root(self, folder: str) -> list[str]:
        """List the objects at a bucket's root, or nothing; the folders that are to be listed then.

        obstore takes the slash from keys that begin with one, and gives them as if they were others: the only
        sign of them is a folder without a name. Then no more is listed than the folders that have one.
        """
        try:
            batches, folders = self._storage.own(folder)
        except UnreadableKey:
            return [folder]  # to meet it once more, and to list what is around it
        if SLASH not in folders and len(folders) > _MAX_ROOT_FOLDERS:
            return [folder]
        return self._note_own(batches, folders)

    def _note_own(self, batches: Sequence[pa.RecordBatch], folders: Sequence[str]) -> list[str]:
        """Note the objects and the hidden folders of a folder; the other folders in it."""
        for batch in batches:
            self._found.add(batch)
        if SLASH in folders:
            self._found.unreadable.add(SLASH)
        is_hidden = {folder: folder.rpartition("/")[2].startswith(".") for folder in folders}
        self._found.hidden.update(f"{folder}/" for folder, hidden in is_hidden.items() if hidden)
        return [folder for folder, hidden in is_hidden.items() if folder != SLASH and not hidden]
