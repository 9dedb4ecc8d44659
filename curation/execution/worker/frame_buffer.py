"""Samples that wait to be captioned or tokenized together, with their frames.

A model that works on many samples at once would starve on what one source has at a time. So frames are
held across windows, images and sources of a unit, up to a bound in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from curation.errors import SampleError
from curation.ingest.media_readers import without_pixels
from curation.records import Sample, Source
from curation.stage import Media, View

Pixels = Mapping[View, Media | SampleError]
"""The frames of each view of a sample, or why they could not be decoded."""


class FrameBuffer:
    """Samples in order, with the frames of their views."""

    def __init__(self, max_bytes: int) -> None:
        """The buffer is full once its frames take `max_bytes`."""
        self._max_bytes = max_bytes
        self._held: dict[str, tuple[Source, Pixels]] = {}
        self.samples: list[Sample] = []
        self.num_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to measure."""
        return self.num_bytes >= self._max_bytes

    def add(self, source: Source, sample: Sample, pixels: Pixels) -> None:
        """Hold a sample and its frames."""
        self.samples.append(sample)
        self._held[sample.sample_id] = source, pixels
        self.num_bytes += sum(item.pixels.nbytes for item in pixels.values() if isinstance(item, Media))

    def media(self, sample: Sample, view: View | None) -> Media:
        """The frames of one view of a sample.

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
