"""Reads sources for the first time: hashes them, reads their headers, and keeps pictures open to be decoded.

reads = FirstReads(max_pixels, on_read)
probed = reads.probe(source)
with reads.opened(probed) as path:      # the bytes that were hashed, not fetched again
...
reads.close(probed)                     # in case that nobody opened it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from curation.errors import ProbeError, SampleError
from curation.errors.isolation import isolated
from curation.ingest.sources import is_in_place, open_source
from curation.ledger.schemas import check_source
from curation.media.probe import failed, probe
from curation.records import Source


class FirstReads:
    """Sources of a new unit, each fetched once."""

    def __init__(self, max_pixels: int, on_read: Callable[[int], None]) -> None:
        """`on_read` is told how many bytes of a source are fetched."""
        self._max_pixels = max_pixels
        self._on_read = on_read
        self._open: dict[str, tuple[Path, ExitStack]] = {}

    def probe(self, source: Source) -> Source:
        """The source with what its header says, or with the error that reading it met.

        An image that can be used stays open until it is opened or closed.
        """
        fresh = replace(source, error_type=None, error=None, content_hash=None)
        try:
            with ExitStack() as stack:
                path = stack.enter_context(open_source(fresh, self._on_read))
                if is_in_place(fresh):
                    self._on_read(path.stat().st_size)  # to be hashed
                probed = probe(fresh, path, self._max_pixels)
                with isolated(ProbeError):
                    check_source(probed)
                if probed.ok and probed.kind == "image":
                    self._open[probed.source_id] = path, stack.pop_all()
        except SampleError as error:
            return failed(source, error)
        return probed

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path]:
        """A source as a file, as `open_source` gives it; of a probed image, what was probed. Closed after.

        Raises: as `open_source`.
        """
        if source.source_id not in self._open:
            with open_source(source, self._on_read) as path:
                yield path
            return
        path, stack = self._open.pop(source.source_id)
        with stack:
            yield path

    def close(self, source: Source) -> None:
        """The source will not be opened again."""
        if source.source_id in self._open:
            _, stack = self._open.pop(source.source_id)
            with suppress(SampleError):  # whether it has changed by now matters to nobody
                stack.close()
