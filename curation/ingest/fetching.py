"""Fetches objects of buckets into scratch files, the next ones while one is worked on.

    with FETCHES.ahead(sources, on_progress):                # in the order in which they will be opened
        with FETCHES.opened(source) as path:    # None where there is no room for it
            ...

An object is hashed as it comes, so that nobody reads it again for that. A few threads fetch; an error is
raised by `opened` of the source that it is about, and by no other.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from curation.errors import StorageError
from curation.ingest.locator import locator_of, version_of
from curation.ingest.reach import FETCHED
from curation.records import Source
from curation.storage.digest import known_digest
from curation.storage.scratch import Scratch, scratch, unnamed_file, write_temporary

NUM_REQUESTS = 8
"""Requests that a worker has in flight at the same time."""
MAX_AHEAD = 64
"""Objects that are fetched ahead; also how far behind the last one that was opened others are given up."""
_PART_BYTES = 1 << 23
"""What one request brings of a large object."""
_WAIT_S = 1.0

_Version = tuple[str, str]


@dataclass(frozen=True)
class _Fetched:
    """An object in a scratch file; closing it gives its room back."""

    path: Path
    stack: ExitStack

    def close(self) -> None:
        """Let go of the file."""
        self.stack.close()


class Fetches:
    """What one process fetches."""

    def __init__(self) -> None:
        self._ahead: _Ahead | None = None
        self._kept: tuple[_Version, _Fetched] | None = None
        self._ranged: tuple[_Version, Any] | None = None

    @contextmanager
    def ahead(self, sources: Iterable[Source], on_progress: Callable[[], None]) -> Iterator[None]:
        """Fetch these sources, those of them that are objects of buckets, before they are opened.

        `on_progress` is called now and then while somebody waits for one and bytes come in.
        """
        objects = [source for source in sources if is_object(source)]
        if not objects:
            yield
            return
        self.forget()
        ahead = self._ahead = _Ahead(objects, on_progress)
        try:
            yield
        finally:
            self._ahead = None
            self.forget()
            ahead.close()

    def forget(self) -> None:
        """Let go of what stayed, should it have been opened again."""
        self._ranged = None
        self._drop_kept()

    def drop(self, source: Source) -> None:
        """Let go of an object that stayed."""
        if self._has_kept(source):
            self._drop_kept()

    def has(self, source: Source) -> bool:
        """Whether the object is here already, or on its way."""
        return self._has_kept(source) or (self._ahead is not None and self._ahead.has(source))

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path | None]:
        """An object as a file; None if it is a video that scratch has no room for.

        The last video stays, should it be opened again.

        Raises: as `InputStorage.open`.
        """
        found = self._taken(source)
        if found is None:
            yield None
            return
        try:
            yield found.path
        finally:
            if source.kind == "image":
                found.close()
            else:
                self._drop_kept()
                self._kept = version_of(source), found

    def ranged(self, source: Source) -> IO[bytes]:
        """An object to read in ranges. The last one stays, with its index, should it be opened again.

        Raises: as `InputStorage.open`.
        """
        has_failed = self._ranged is not None and self._ranged[1].failure is not None
        if self._ranged is None or has_failed or self._ranged[0] != version_of(source):
            storage, key = locator_of(source.uri).open_storage()
            self._ranged = version_of(source), storage.open(key, source.etag)
        file: IO[bytes] = self._ranged[1]
        return file

    def _taken(self, source: Source) -> _Fetched | None:
        if self._has_kept(source):
            (_, found), self._kept = self._kept or (None, None), None
            return found
        self._drop_kept()
        found = self._ahead.taken(source) if self._ahead is not None else None
        if found is not None:
            return found
        room = scratch()
        if room.take(source.size_bytes):
            return _fetch(source, room, source.size_bytes, threading.Event())
        return _fetch(source, room, 0, threading.Event()) if source.kind == "image" else None

    def _has_kept(self, source: Source) -> bool:
        return self._kept is not None and self._kept[0] == version_of(source)

    def _drop_kept(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept[1].close()


FETCHES = Fetches()
"""Those of this process."""


class _Ahead:
    """Objects that are fetched before they are asked for, in order."""

    def __init__(self, sources: list[Source], on_progress: Callable[[], None]) -> None:
        self._places = {version_of(source): place for place, source in enumerate(sources)}
        self._waiting = deque(enumerate(sources))
        self._running: dict[int, tuple[Future[_Fetched], int]] = {}
        self._room = scratch()
        self._stopped = threading.Event()
        self._on_progress = on_progress
        self._pool = ThreadPoolExecutor(NUM_REQUESTS, thread_name_prefix="fetch")
        self._go_on()

    def has(self, source: Source) -> bool:
        """Whether it was begun, and not yet taken."""
        return self._places.get(version_of(source)) in self._running

    def taken(self, source: Source) -> _Fetched | None:
        """The object, once it has come; None if it was not begun."""
        place = self._places.get(version_of(source))
        if place is None:
            return None
        self._give_up(place - MAX_AHEAD)
        self._go_on()
        while self._waiting and self._waiting[0][0] <= place:
            self._waiting.popleft()
        future, _ = self._running.pop(place, (None, 0))
        if future is None:
            return None
        self._wait_for(future)
        self._go_on()
        return future.result()

    def close(self) -> None:
        """Fetch no more, and let go of what nobody took."""
        self._stopped.set()
        self._give_up(len(self._places))
        self._pool.shutdown(wait=True)

    def _wait_for(self, future: Future[_Fetched]) -> None:
        seen = FETCHED.num_bytes
        while not wait([future], timeout=_WAIT_S).done:
            if FETCHED.num_bytes != seen:
                seen = FETCHED.num_bytes
                self._on_progress()

    def _go_on(self) -> None:
        """Begin with as many as there is room for; larger ones than that are read in ranges."""
        while self._waiting and len(self._running) < MAX_AHEAD:
            place, source = self._waiting[0]
            num_bytes = source.size_bytes
            if num_bytes <= self._room.max_bytes:
                if not self._room.take(num_bytes):
                    return
                future = self._pool.submit(_fetch, source, self._room, num_bytes, self._stopped)
                self._running[place] = future, num_bytes
            self._waiting.popleft()

    def _give_up(self, before: int) -> None:
        """Let go of what was not taken of those before a place."""
        for place in [place for place in self._running if place < before]:
            future, num_bytes = self._running.pop(place)
            if future.cancel():
                self._room.give_back(num_bytes)
            else:
                future.add_done_callback(_close)


def is_object(source: Source) -> bool:
    """Whether a source is an object of a bucket by itself, and no part of one."""
    return is_in_bucket(source) and not locator_of(source.uri).scheme


def is_in_bucket(source: Source) -> bool:
    """Whether a source lies in a bucket, or a container there."""
    return not locator_of(source.uri).open_storage()[0].is_local


def _close(future: Future[_Fetched]) -> None:
    if future.exception() is None:
        future.result().close()


def _fetch(source: Source, room: Scratch, num_bytes: int, stopped: threading.Event) -> _Fetched:
    """An object in a scratch file. `num_bytes` of room were taken for it, which are given back in the end.

    Raises: as `InputStorage.open`; StorageError, too, once `stopped` is set.
    """
    storage, key = locator_of(source.uri).open_storage()
    digest = hashlib.sha256()
    with ExitStack() as stack:
        stack.callback(room.give_back, num_bytes)
        copy, path = stack.enter_context(unnamed_file())
        with storage.open(key, source.etag) as file:
            left = source.size_bytes or file.seek(0, io.SEEK_END)  # what is listed as empty must be there
            while left and (data := file.read(min(_PART_BYTES, left))):
                write_temporary(copy, data)
                digest.update(data)
                left -= len(data)
                if stopped.is_set():
                    raise StorageError(f"{source.uri} is not fetched to its end any more")
        stack.enter_context(known_digest(path, digest.hexdigest()))
        return _Fetched(path, stack.pop_all())
