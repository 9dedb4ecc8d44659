"""A folder of a bucket as a storage. An object appears whole or not at all, and a version is its ETag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.storage.base import ABSENT, Listed
from curation.storage.buckets.connection import connect, place_of
from curation.storage.buckets.faults import named_faults
from curation.storage.buckets.object_file import ObjectFile

_LISTED_TOGETHER = 1000
"""Objects of a listing that become a batch: a page of it."""
_COPY_BYTES = 1 << 23
PART_BYTES = 1 << 24
"""Objects larger than this are written in parts of this size."""


class BucketStorage:
    """Objects below a prefix of a bucket. Holds no connection, so that it can be sent to workers."""

    is_local = False

    def __init__(self, url: str) -> None:
        """`url` as `place_of` reads it.

        Raises:
            ConfigError: it names no bucket.
        """
        self._place = place_of(url)
        self.root = self._place.url
        self._skipped = len(f"{self._place.prefix}/") if self._place.prefix else 0

    def list(self, prefix: str) -> list[Listed]:
        rows = (row for batch in self.batches(prefix) for row in batch.to_pylist())
        return sorted((Listed(*row.values()) for row in rows), key=lambda item: item.key)

    def batches(self, prefix: str, *, after: str = "") -> Iterator[pa.RecordBatch]:
        """Objects below the folder `prefix`, in no order: `key`, `size_bytes`, `etag`.

        Objects that only mark a folder are not left out: their key is that of the folder.

        `after`: A key; what the server lists before it and itself are left out.

        Raises:
            UnreadableKey: the server has come to a key that obstore refuses.
        """
        top = self.path(prefix)
        with named_faults(f"{self.root}/{prefix}"):
            stream = self._store.list(
                f"{top}/" if top else None,
                offset=self.path(after) if after else None,
                chunk_size=_LISTED_TOGETHER,
                return_arrow=True,
            )
            yield from map(self._as_batch, stream)

    def own(self, folder: str) -> tuple[Sequence[pa.RecordBatch], Sequence[str]]:
        """The objects in a folder itself, as `batches` gives them, and the keys of the folders in it.

        At the root of a bucket `/` stands for all keys that begin with a slash.

        Raises:
            UnreadableKey: obstore refuses a key in it.
        """
        with named_faults(f"{self.root}/{folder}"):
            found = self._store.list_with_delimiter(self.path(folder) or None, return_arrow=True)
        batches = pa.table(found["objects"]).to_batches()
        return list(map(self._as_batch, batches)), [
            name[self._skipped :] or "/" for name in found["common_prefixes"]
        ]

    def _as_batch(self, chunk: Any) -> pa.RecordBatch:
        """What obstore lists, with keys relative to the root."""
        found = pa.record_batch(chunk)
        keys = found["path"].cast(pa.string())
        if self._skipped:
            keys = pc.utf8_slice_codeunits(keys, self._skipped)
        columns = [keys, found["size"].cast(pa.int64()), found["e_tag"].cast(pa.string())]
        return pa.record_batch(columns, names=["key", "size_bytes", "etag"])

    def find(self, key: str) -> Listed | None:
        try:
            with named_faults(self._url(key)):
                found = self._store.head(self.path(key))
        except FileNotFoundError:
            return None
        return Listed(key, found["size"], found["e_tag"] or "")

    def open(self, key: str) -> IO[bytes]:
        return ObjectFile(self._store, self.path(key), self._url(key))  # type: ignore[return-value]

    def leftovers(self, prefix: str) -> tuple[str, ...]:
        return ()

    def read(self, key: str) -> bytes | None:
        return self.read_versioned(key)[0]

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        try:
            with named_faults(self._url(key)):
                found = self._store.get(self.path(key))
                return bytes(found.bytes()), found.meta["e_tag"] or ""
        except FileNotFoundError:
            return None, ABSENT

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        mode: Any = "overwrite"
        if expect is not None:
            mode = "create" if expect == ABSENT else {"e_tag": expect}
        is_large = expect is None and len(data) > PART_BYTES
        with named_faults(self._url(key)):
            self._store.put(
                self.path(key),
                data,
                mode=mode,
                use_multipart=is_large,
                chunk_size=PART_BYTES,
                max_concurrency=4,
            )

    @contextmanager
    def creating(self, key: str) -> Iterator[IO[bytes]]:
        with TemporaryFile(prefix="curation-") as file:
            yield file
            file.flush()
            file.seek(0)
            with named_faults(self._url(key)):
                self._store.put(self.path(key), file, chunk_size=PART_BYTES, max_concurrency=4)

    def delete(self, key: str) -> None:
        try:
            with named_faults(self._url(key)):
                self._store.delete(self.path(key))
        except FileNotFoundError:
            pass

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        with NamedTemporaryFile(prefix="curation-") as copy, self.open(key) as file:
            while data := file.read(_COPY_BYTES):
                copy.write(data)
            copy.flush()
            yield Path(copy.name)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        yield

    @property
    def _store(self) -> Any:
        return connect(self._place)

    def path(self, key: str) -> str:
        """The key of an object in its bucket; "" for the root of a bucket."""
        return f"{self._place.prefix}/{key}" if self._place.prefix and key else self._place.prefix or key

    def _url(self, key: str) -> str:
        return f"{self.root}/{key}"
