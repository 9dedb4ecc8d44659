"""A folder of a bucket as a storage. An object appears whole or not at all, and a version is its ETag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from curation.storage.base import Listed
from curation.storage.buckets.access import check_writing
from curation.storage.buckets.client import BucketClient
from curation.storage.buckets.connection import place_of
from curation.storage.buckets.lease import check_lease, held
from curation.storage.local import named_errors
from curation.storage.remote import RemoteStorage
from curation.storage.scratch import scratch, unnamed_file

_LEASE = ".lease"


class BucketStorage(RemoteStorage):
    """Objects below a prefix of a bucket."""

    def __init__(self, url: str) -> None:
        """`url` as `place_of` reads it.

        Raises:
            ConfigError: it names no bucket.
        """
        place = place_of(url)
        self._client = BucketClient(place)
        super().__init__(place.url, place.prefix, self._client)

    def list(self, prefix: str) -> list[Listed]:
        # Consoles mark folders by empty objects, which are none of anybody's.
        rows = (row for batch in self.batches(prefix) for row in batch.to_pylist())
        found = sorted((Listed(*row.values()) for row in rows), key=lambda item: item.key)
        folders = {str(above) for item in found for above in PurePosixPath(item.key).parents} | {prefix, ""}
        return [
            item
            for item in found
            if not _is_hidden(item.key) and (item.size_bytes or item.key not in folders)
        ]

    def batches(self, prefix: str, *, after: str = "") -> Iterator[pa.RecordBatch]:
        """Objects below the folder `prefix`, in no order: `key`, `size_bytes`, `etag`.

        Objects that only mark a folder are not left out: their key is that of the folder.

        `after`: A key; itself and what the server lists before it are left out.

        Raises:
            UnreadableKey: the server has come to a key that obstore refuses.
        """
        return map(
            self._relative,
            self._client.list(
                self._path_of_folder(prefix), after=self._path_of_folder(after) if after else ""
            ),
        )

    def own(self, folder: str) -> tuple[Sequence[pa.RecordBatch], Sequence[str]]:
        """The objects in a folder itself, as `batches` gives them, and the keys of the folders in it.

        At the root of a bucket `/` stands for all keys that begin with a slash.

        Raises:
            UnreadableKey: obstore refuses a key in it.
        """
        batches, folders = self._client.own(self._path_of_folder(folder))
        return list(map(self._relative, batches)), [self._key(name) or "/" for name in folders]

    def _relative(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Objects with keys relative to the root."""
        keys = batch["key"]
        if self._prefix:
            keys = pc.utf8_slice_codeunits(keys, len(self._prefix) + 1)
        return pa.record_batch([keys, batch["size_bytes"], batch["etag"]], schema=batch.schema)

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        if expect is None:
            check_lease(self._url(key))
        self._client.put(self._path(key), data, expect)

    @property
    def compares_versions(self) -> bool:
        return self._client.is_conditional

    @contextmanager
    def creating(self, key: str) -> Iterator[IO[bytes]]:
        with unnamed_file() as (file, _):
            with named_errors(scratch().folder):
                yield file
                file.flush()
            check_lease(self._url(key))
            self._client.put_file(self._path(key), file)

    def delete(self, key: str) -> None:
        check_lease(self._url(key))
        self._client.delete(self._path(key))

    @contextmanager
    def exclusive(self, say: Callable[[str], None] | None = None) -> Iterator[None]:
        check_writing(self.root)
        with held(self._client, self._path(_LEASE), self.root, say):
            yield


def _is_hidden(key: str) -> bool:
    """As on a disk: a name that begins with a dot is nobody's data, such as the lease."""
    return key.rpartition("/")[2].startswith(".")
