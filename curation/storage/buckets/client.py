"""A bucket's objects, asked for with patience and checked as they come.

    client = BucketClient(place_of("s3://photos"))
    found = client.get("a.jpg", options={"range": (0, 100)})
    found.meta["size"], found.data

Methods take whole keys, and are those of obstore's stores but for the errors: FileNotFoundError where there
is no such object, WriteConflict where it is of another version, StorageError in one sentence for all else,
once trying again has not helped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import StorageError, WriteConflict
from curation.storage.base import ABSENT
from curation.storage.buckets.connection import Place, Use, connect, forget_credentials
from curation.storage.buckets.faults import Fault, Kind, fault_of
from curation.storage.buckets.retries import NotSupported, WrongAnswer, persistently
from curation.storage.object_file import Fetched
from curation.storage.retries import FIRST_CONTACT, OutOfTime, deadline_s

PART_BYTES = 1 << 24
"""Objects larger than this are written in parts of this size, a few at a time."""
_NUM_PARTS_AT_ONCE = 4
_SMALL_BYTES = 1 << 20
"""A body up to this size is sent before anyone could think that the server is silent."""
_LISTED_TOGETHER = 1000
"""Objects of a listing that become a batch: a page of it."""
_LISTED = pa.schema([("key", pa.string()), ("size_bytes", pa.int64()), ("etag", pa.string())])
_unconditional: set[Place] = set()
"""Buckets that have shown this process that they don't know conditional writes."""

T = TypeVar("T")


class BucketClient:
    """The objects of one bucket. Holds no connection."""

    def __init__(self, place: Place, limit_s: float | None = None) -> None:
        """`limit_s`: for how long a request may go without success; None takes `deadline_s`."""
        self._place = Place(place.scheme, place.bucket, "")
        self._limit_s = limit_s

    @property
    def is_conditional(self) -> bool:
        """Whether the bucket knows conditional writes, as far as this process has seen."""
        return self._place not in _unconditional

    def do_without_conditions(self) -> None:
        """Compare versions before writing, from now on: the bucket has shown that it doesn't."""
        _unconditional.add(self._place)

    def within(self, limit_s: float) -> BucketClient:
        """The same objects, with another time that a request may go without success."""
        return BucketClient(self._place, limit_s)

    def peek(self, folder: str) -> None:
        """List the first objects below a folder, to see if that can be done at all."""
        below = f"{folder}/" if folder else None
        self._persistently(folder, lambda: next(self._store().list(below, chunk_size=1), None))

    def get(self, path: str, *, options: Any = None) -> Fetched:
        """An object, or the range of it that `options` name."""

        def fetch() -> Fetched:
            found = self._store().get(path, options=options)
            data = bytes(found.bytes())
            _check_answer(found.meta, len(data), options or {})
            return Fetched(found.meta, data)

        return self._persistently(path, fetch)

    def head(self, path: str) -> Any:
        """Size, etag and so on of an object. A bucket that is not there is not told from the object."""
        return self._persistently(path, lambda: self._store().head(path))

    def put(self, path: str, data: bytes, expect: str | None = None) -> str:
        """Write an object as a whole; if `expect` is given, only over this version (ABSENT: over none).

        Where an answer is lost on its way, a second attempt may find the version that the first one made: the
        object is read back then, and that it holds these bytes is success.

        Returns:
            Its version.

        Raises:
            WriteConflict: it is of another version.
        """
        if expect is not None and not self.is_conditional:
            return self._put_after_looking(path, data, expect)
        doubts: list[Fault] = []
        try:
            return self._persistently(
                path, lambda: self._put_once(path, data, expect), on_fault=doubts.append
            )
        except WriteConflict:
            found, version = (
                self.read(path) if any(fault.is_ambiguous for fault in doubts) else (None, ABSENT)
            )
            if found != data:
                raise
            return version
        except NotSupported:
            if expect is None:
                raise
        self.do_without_conditions()
        return self._put_after_looking(path, data, expect)

    def put_file(self, path: str, file: IO[bytes]) -> None:
        """Write an object as a whole from a file, in parts, over whatever is there."""

        def put() -> None:
            file.seek(0)
            self._store(Use.PARTS).put(path, file, chunk_size=PART_BYTES, max_concurrency=_NUM_PARTS_AT_ONCE)

        self._persistently(path, put)

    def read(self, path: str) -> tuple[bytes | None, str]:
        """An object and its version; (None, ABSENT) where there is none."""
        try:
            found = self.get(path)
        except FileNotFoundError:
            return None, ABSENT
        return found.data, self._version_of(found.meta)

    def delete(self, path: str) -> None:
        """Remove an object if it is there."""
        with suppress(FileNotFoundError):
            self._persistently(path, lambda: self._store().delete(path))

    def list(self, folder: str, *, after: str = "") -> Iterator[pa.RecordBatch]:
        """Objects below a folder ("" = all), in no order, once each: `key`, `size_bytes`, `etag`.

        `after`: A key; itself and what the server lists before it are left out.

        A listing that breaks off is begun again, without what has been given.
        """
        given: list[pa.Array] = []
        stream: Any = None

        def next_batch() -> pa.RecordBatch | None:
            nonlocal stream
            if stream is None:
                store = self._store(Use.LISTINGS)
                stream = store.list(
                    f"{folder}/" if folder else None,
                    offset=after or None,
                    chunk_size=_LISTED_TOGETHER,
                    return_arrow=True,
                )
            chunk = next(stream, None)
            return None if chunk is None else _listed(pa.record_batch(chunk))

        def begin_again(_: Fault) -> None:
            nonlocal stream
            stream, seen[:] = None, given

        seen: list[pa.Array] = []
        while (batch := self._persistently(folder, next_batch, on_fault=begin_again)) is not None:
            if seen:
                batch = batch.filter(pc.invert(pc.is_in(batch["key"], pa.chunked_array(seen))))
            given.append(batch["key"])
            yield batch

    def own(self, folder: str) -> tuple[Sequence[pa.RecordBatch], Sequence[str]]:
        """The objects in a folder itself, as `list` gives them, and the folders in it."""

        def fetch() -> Any:
            return self._store(Use.LISTINGS).list_with_delimiter(folder or None, return_arrow=True)

        found = self._persistently(folder, fetch)
        return list(map(_listed, pa.table(found["objects"]).to_batches())), found["common_prefixes"]

    def _put_once(self, path: str, data: bytes, expect: str | None) -> str:
        use = Use.OBJECTS if len(data) <= _SMALL_BYTES else Use.UPLOADS
        if expect is None and len(data) > PART_BYTES:
            use = Use.PARTS
        try:
            done = self._store(use).put(
                path,
                data,
                mode=self._mode(expect),
                use_multipart=use is Use.PARTS,
                chunk_size=PART_BYTES,
                max_concurrency=_NUM_PARTS_AT_ONCE,
            )
        except FileNotFoundError as error:
            # So some providers say that there is no version to replace.
            if expect is None or fault_of(error, self._place.scheme).kind is Kind.NO_BUCKET:
                raise
            raise WriteConflict(f"{self._url(path)} is gone") from None
        return self._version_of(done)

    def _put_after_looking(self, path: str, data: bytes, expect: str) -> str:
        """As good as it gets where writes know no conditions: another writer may come in between."""
        if self.read(path)[1] != expect:
            raise WriteConflict(f"{self._url(path)} was written by someone else")
        return self.put(path, data)

    def _mode(self, expect: str | None) -> Any:
        if expect is None:
            return "overwrite"
        return "create" if expect == ABSENT else {self._version_name: expect}

    def _version_of(self, meta: Any) -> str:
        return meta[self._version_name] or ""

    @property
    def _version_name(self) -> str:
        """Google compares generations, the others ETags."""
        return "version" if self._place.scheme == "gs" else "e_tag"

    def _persistently(
        self, path: str, attempt: Callable[[], T], on_fault: Callable[[Fault], None] | None = None
    ) -> T:
        place = self._place.url
        try:
            found = persistently(
                self._url(path),
                self._place.scheme,
                attempt,
                limit_s=self._time_left_s(),
                renew_credentials=forget_credentials,
                on_fault=on_fault,
            )
        except OutOfTime:
            FIRST_CONTACT.failed(place)
            raise
        except (FileNotFoundError, StorageError):
            FIRST_CONTACT.answered(place)
            raise
        FIRST_CONTACT.answered(place)
        return found

    def _store(self, use: Use = Use.OBJECTS) -> Any:
        return connect(self._place, use, self._time_left_s())

    def _time_left_s(self) -> float:
        """For how long a request that is made now may go without success."""
        own_s = deadline_s() if self._limit_s is None else self._limit_s
        return min(own_s, FIRST_CONTACT.limit_s(self._place.url))

    def _url(self, path: str) -> str:
        return f"{self._place.url}/{path}" if path else self._place.url


def _check_answer(meta: Any, num_bytes: int, options: Any) -> None:
    """Raises WrongAnswer: it is another version or another number of bytes than were asked for."""
    start, end = options.get("range") or (0, meta["size"])
    expected = min(end, meta["size"]) - start
    if num_bytes != expected:
        raise WrongAnswer(f"{num_bytes} bytes came of {expected}")
    wanted = options.get("if_match")
    if wanted is not None and meta["e_tag"] != wanted:
        raise WrongAnswer(f"version {meta['e_tag']} came, and not {wanted}")


def _listed(chunk: pa.RecordBatch) -> pa.RecordBatch:
    columns = [chunk[name].cast(of.type) for name, of in zip(("path", "size", "e_tag"), _LISTED, strict=True)]
    return pa.record_batch([*columns[:2], _quoted(columns[2])], schema=_LISTED)


def _quoted(etags: pa.Array) -> pa.Array:
    """ETags as headers have them: Azure lists them without their quotes."""
    bare = pc.replace_substring_regex(etags, '^"(.*)"$', r"\1")
    is_strong = pc.invert(pc.starts_with(etags, "W/"))
    return pc.if_else(is_strong, pc.binary_join_element_wise('"', bare, '"', ""), etags)
