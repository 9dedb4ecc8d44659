"""What is held decoded at the same time: images of a chunk, and samples that wait to be measured together.

A model that works on many samples at once would starve on what one source has at a time. Frames are
held across windows, images and sources of a unit, up to a bound in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from curation.errors import SampleError
from curation.ingest.media_readers import without_pixels
from curation.records import Sample, Source
from curation.stage import Media, View

Pixels = Mapping[View, Media | SampleError]
"""What each view of a sample shows, or why it shows nothing."""

CHUNK_IMAGES = 16
"""Images that are held decoded at the same time, at most."""


def chunks_of(sources: Iterable[Source], max_bytes: int) -> Iterator[list[Source]]:
    """Images in order, in chunks that take up to `max_bytes` decoded; a larger one is alone."""
    chunk: list[Source] = []
    num_bytes = 0
    for source in sources:
        size_bytes = 3 * (source.width or 0) * (source.height or 0)
        if chunk and (len(chunk) == CHUNK_IMAGES or num_bytes + size_bytes > max_bytes):
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(source)
        num_bytes += size_bytes
    if chunk:
        yield chunk


class FrameBuffer:
    """Samples in order, with the frames of their views."""

    def __init__(self, max_bytes: int) -> None:
        """The hold is full from `max_bytes` of frames on."""
        self._max_bytes = max_bytes
        self._held: dict[str, tuple[Source, Pixels]] = {}
        self.samples: list[Sample] = []
        self.num_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to measure."""
        return self.num_bytes >= self._max_bytes

    def add(self, source: Source, sample: Sample, pixels: Pixels) -> None:
        """Take in a sample."""
        self.samples.append(sample)
        self._held[sample.sample_id] = source, pixels
        self.num_bytes += sum(item.pixels.nbytes for item in pixels.values() if isinstance(item, Media))

    def media(self, sample: Sample, view: View | None) -> Media:
        """The frames of a view that the sample came with.

        Raises:
            SampleError: they could not be decoded.
        """
        source, pixels = self._held[sample.sample_id]
        if view is None:
            return without_pixels(source)
        found = pixels[view]
        if isinstance(found, SampleError):
            raise found
        return found
