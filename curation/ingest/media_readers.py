"""Reads the pixels of sources for one unit, and counts what it decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import numpy as np

from curation.errors import DecodeError, SampleError
from curation.errors.isolation import isolated
from curation.ingest.sources import OpenSource, open_source, while_unchanged
from curation.media.decoder import DecoderSettings, decoder_for
from curation.media.file import MediaFile
from curation.media.frame import Frame
from curation.media.halvings import Halvings
from curation.media.image import read_image
from curation.media.resize import resize
from curation.media.sampling import Sampling
from curation.media.views import SpanCollector
from curation.records import Sample, Source
from curation.stage import Media, View


def without_pixels(source: Source) -> Media:
    """What a stage without a view gets."""
    return Media(source, np.empty((0, 0, 0, 3), np.uint8), np.empty(0))


class ImageReader:
    """Decodes each image at most once, and only when a stage wants pixels."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        on_decode: Callable[[str], None],
        max_pixels: int,
        opened: Callable[[Source], AbstractContextManager[MediaFile]] = open_source,
        short_side: int | None = None,
    ) -> None:
        """`sources` by sample id; `on_decode` is told the URI before each decode, which `opened` opens.

        `short_side` is what JPEGs keep at least when they are decoded; None: all pixels.
        """
        self._short_side = short_side
        self._sources = sources
        self._max_pixels = max_pixels
        self._opened = opened
        self._on_decode = on_decode
        self._halvings: dict[str, Halvings | SampleError] = {}

    def media(self, sample: Sample, view: View | None) -> Media:
        """The image at the view's size.

        Raises:
            DecodeError: it is damaged; said again for every stage that asks.
        """
        source = self._sources[sample.sample_id]
        if view is None:
            return without_pixels(source)
        halvings = self._decoded(sample.sample_id, source)
        if isinstance(halvings, SampleError):
            raise halvings
        with isolated(DecodeError):
            pixels = resize(halvings.pixels, view, halvings)
            return Media(source, pixels[np.newaxis], np.zeros(1), (halvings,))

    def _decoded(self, sample_id: str, source: Source) -> Halvings | SampleError:
        if sample_id not in self._halvings:
            self._on_decode(source.uri)
            try:
                with self._opened(source) as file, isolated(DecodeError):
                    self._halvings[sample_id] = Halvings(read_image(file, self._max_pixels, self._short_side))
            except SampleError as error:
                self._halvings[sample_id] = error
        return self._halvings[sample_id]


class VideoReader:
    """The frames of one source in order; knows afterwards how many there were and when the last one ends."""

    def __init__(
        self,
        source: Source,
        decoder: DecoderSettings,
        on_frame: Callable[[], None],
        start_s: float = 0.0,
        opened: OpenSource = open_source,
        span_s: float | None = None,
    ) -> None:
        """Frames well before `start_s` may be left out; `opened` opens the source.

        `span_s`: seconds that are looked at of the source in all, as far as that is known.
        """
        self._source = source
        self._opened = opened
        self._span_s = span_s
        self._decoder = decoder_for(decoder, source)
        self._on_frame = on_frame
        self._start_s = start_s
        # The last frame lasts as long as the one before it did.
        self._interval_s = float(1 / source.frame_rate) if source.frame_rate else 0.04
        self._last_s: float | None = None
        self.num_frames = 0
        self.codings: set[tuple[object, ...]] = set()
        """Sizes, pixel aspects and orientations of the frames as stored; none if the decoder hides them."""
        self.sampling: Sampling | None = None
        """Set by a caller who is sure to look at some frames only: the others are decoded when looked at."""
        self.broke_off = False
        """Whether the caller stopped before the last frame."""

    def __iter__(self) -> Iterator[Frame]:
        with self._opened(self._source, span_s=self._span_s) as file:
            for frame in self._frames(file, self._start_s, self.sampling):
                if self._last_s is not None and frame.pts_s > self._last_s:
                    self._interval_s = frame.pts_s - self._last_s
                self._last_s = frame.pts_s
                self.num_frames += 1
                if frame.coded is not None:
                    self.codings.add(frame.coded)
                for _ in range(frame.num_decoded):
                    self._on_frame()
                yield frame

    def first_s(self) -> float:
        """When the source's first frame is shown, wherever this reader begins."""
        with self._opened(self._source, span_s=0.0) as file:  # next to nothing of it is read
            return next((frame.pts_s for frame in self._frames(file)), 0.0)

    def _frames(
        self, file: MediaFile, start_s: float = 0.0, sampling: Sampling | None = None
    ) -> Iterator[Frame]:
        with isolated(DecodeError):
            frames = self._decoder.frames(file, start_s, sampling)
            yield from while_unchanged(self._source, file, frames)

    @property
    def end_s(self) -> float:
        """When the last frame that was seen ends."""
        return round((self._last_s or 0.0) + self._interval_s, 6)


def read_again(source: Source, sample: Sample, view: View, *, decoder: DecoderSettings) -> Media:
    """The frames of one sample that is captioned or tokenized, as the stage of that view got them.

    Raises:
        SampleError: the source can't be decoded.
    """
    if sample.kind == "image":
        return ImageReader({sample.sample_id: source}, lambda _: None, decoder.max_pixels).media(sample, view)
    collector = SpanCollector([sample], [view])
    span_s = sample.end_s - sample.start_s
    for frame in VideoReader(source, decoder, lambda: None, sample.start_s, span_s=span_s):
        if collector.push(frame):
            break
    else:
        collector.finish()
    return collector.media(view, source, sample)
