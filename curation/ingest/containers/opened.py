"""Containers that are read part by part: those in buckets stay open from one part to the next.

containers = OpenedContainers()
containers.expect(sources)              # parts that will be asked for
with containers.opened(source) as file:
    ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from curation.ingest.locator import check_unchanged, locator_of, position_of, version_of
from curation.records import Source


class OpenedContainers:
    """Opens the container that a part is in, of the version that was listed."""

    def __init__(self) -> None:
        self._last: tuple[tuple[str, str], Any] | None = None
        self._ends: dict[tuple[str, str], int] = {}

    def expect(self, sources: Iterable[Source]) -> None:
        """Fetch ahead up to the last of these parts, where their places are known."""
        self._ends.clear()
        for source in sources:
            version, end = version_of(source), position_of(source) + source.size_bytes
            self._ends[version] = max(end, self._ends.get(version, 0))

    @contextmanager
    def opened(self, source: Source) -> Iterator[IO[bytes]]:
        """The container as a file to read and to seek in.

        Raises:
            ProbeError, ChangedError: it has gone from its folder, or is another one.
            StorageError: the storage is in trouble; of a bucket also what `InputStorage.open` raises.
        """
        storage, key = locator_of(source.uri).open_storage()
        version = version_of(source)
        if storage.is_local:
            check_unchanged(source, storage, key)
            with storage.open(key) as plain:
                yield plain
            return
        if self._last is None or self._last[0] != version or self._last[1].failure is not None:
            self._last = version, storage.open(key, version[1])
        file: Any = self._last[1]
        # Without a word about what follows nothing is fetched ahead.
        file.until = self._ends.get(version, 0)
        yield file
