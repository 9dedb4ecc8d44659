"""Reads sources for the first time: hashes them, reads their headers, and keeps them open to be decoded.

    reads = FirstReads(max_pixels, metrics, "filter")
    probed = reads.probe(source)
    reads.count_stored(probed)
    with reads.opened(probed) as path:      # the bytes that were hashed, not fetched again
        ...

`close` ends it for one that nobody opened, and `keep` leaves it to whoever looks at its segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from curation.errors import ProbeError, SampleError
from curation.errors.isolation import isolated
from curation.execution.copies import Copy, copy_of
from curation.execution.segments import WHOLE_VIDEO, Segment
from curation.execution.worker.metrics import Metrics
from curation.ingest.fetching import FETCHES, is_in_bucket, is_object
from curation.ingest.sources import is_in_place, open_source, raise_failure
from curation.ledger.schemas import check_source
from curation.media.file import MediaFile, size_of
from curation.media.probe import failed, probe
from curation.records import Source
from curation.storage.scratch import scratch


class FirstReads:
    """Sources of a new unit, each fetched once."""

    def __init__(
        self, max_pixels: int, metrics: Metrics, phase: str, *, node_id: str = "", copy: Copy | None = None
    ) -> None:
        """`metrics` counts under `phase` the bytes that are fetched, and those of the sources opened.

        `copy` is one of the only video that is opened; `node_id` where this process runs.
        """
        self._max_pixels = max_pixels
        self._node_id = node_id
        self._copy = copy
        self._metrics = metrics
        self._phase = phase
        self._counted: set[str] = set()
        self._open: dict[str, tuple[MediaFile, ExitStack]] = {}

    def probe(self, source: Source) -> Source:
        """The source with what its header says, or with the error that reading it met.

        One that can be used and was copied stays open until it is opened or closed, and so does any image.
        """
        try:
            return self._probe(source)
        except SampleError as error:
            return failed(source, error)

    def count_read(self, num_bytes: int) -> None:
        """Count bytes that are fetched from where a source is stored."""
        self._metrics.bytes_read[self._phase] += num_bytes

    def count_stored(self, source: Source, segment: Segment = WHOLE_VIDEO) -> None:
        """Count the bytes of a source that is opened, or of a segment of it, by its time."""
        share = segment.share_of(source.duration_s)
        self._metrics.bytes_stored[self._phase] += round(share * source.size_bytes)

    def _probe(self, source: Source) -> Source:
        fresh = replace(source, error_type=None, error=None, content_hash=None)
        with ExitStack() as stack:
            path = stack.enter_context(open_source(fresh, self.count_read, is_first=True))
            in_place = is_in_place(fresh, is_first=True)
            if in_place:
                self.count_read(size_of(path))  # to be hashed
            probed = probe(fresh, path, self._max_pixels)
            raise_failure(path)
            with isolated(ProbeError):
                check_source(probed)
            if probed.ok and (probed.kind == "image" or not in_place):
                self._open[probed.source_id] = path, stack.pop_all()
        return probed

    @contextmanager
    def opened_video(self, source: Source, *, span_s: float | None = None) -> Iterator[MediaFile]:
        """A video as a file; one that is still open from probing is that, and is closed after.

        `span_s` as `open_source` takes it; of a video that somebody on this machine holds a copy of, nothing
        is fetched.

        Raises: as `open_source`.
        """
        if source.source_id in self._open:
            with self.opened(source) as path:
                yield path
            return
        with ExitStack() as stack:
            copy = stack.enter_context(self._copy.opened(self._node_id)) if self._copy is not None else None
            if copy is not None:
                yield copy
                return
            path = stack.enter_context(open_source(source, self.count_read, span_s=span_s))
            if is_in_place(source):
                self.count_read(round(_share(span_s, source.duration_s) * source.size_bytes))
            yield path

    @contextmanager
    def opened_again(
        self, source: Source, *, span_s: float | None = None, segment: Segment = WHOLE_VIDEO
    ) -> Iterator[MediaFile]:
        """A source that was probed by another task, or a segment of it: counted once however often opened.

        Raises: as `open_source`.
        """
        if source.source_id not in self._counted:
            self._counted.add(source.source_id)
            self.count_stored(source, segment)
        with self.opened_video(source, span_s=span_s) as file:
            yield file

    @contextmanager
    def opened(self, source: Source) -> Iterator[MediaFile]:
        """A source as a file, as `open_source` gives it; of a probed image, what was probed. Closed after.

        Raises: as `open_source`.
        """
        if source.source_id not in self._open:
            self.count_stored(source)
            with open_source(source, self.count_read) as path:
                yield path
            return
        path, stack = self._open.pop(source.source_id)
        with stack:
            yield path

    def close(self, source: Source) -> None:
        """The source will not be opened again."""
        if source.source_id in self._open:
            _, stack = self._open.pop(source.source_id)
            _close(stack)

    def keep(self, source: Source) -> Copy | None:
        """Hold on to what was fetched of a bucket for a video, as long as scratch has the room.

        Returns None if nothing was.
        """
        path, stack = self._open.pop(source.source_id, (None, None))
        if stack is None:
            return None
        if isinstance(path, Path) and is_in_bucket(source) and _has_room(source, stack):
            scratch().spare(partial(_let_go, source, stack))
            return copy_of(path, self._node_id)
        _close(stack)
        return None


def _has_room(source: Source, stack: ExitStack) -> bool:
    """Whether scratch has room for an opened source; one in a container takes it until `stack` closes."""
    if is_object(source):
        return True  # since it was fetched
    room = scratch()
    has_room = room.take(source.size_bytes)
    if has_room:
        stack.callback(room.give_back, source.size_bytes)
    return has_room


def _let_go(source: Source, stack: ExitStack) -> None:
    _close(stack)
    FETCHES.drop(source)


def _close(stack: ExitStack) -> None:
    with suppress(SampleError):  # whether it has changed by now matters to nobody
        stack.close()


def _share(span_s: float | None, duration_s: float | None) -> float:
    """The share of a video that so many seconds are; 1 where that is not known."""
    return min(1.0, span_s / duration_s) if span_s is not None and duration_s else 1.0
