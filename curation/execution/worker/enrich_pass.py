"""The enrich pass: captions and tokens of kept samples.

Whatever source they come from, samples are measured in batches as large as memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from curation.errors import SampleError
from curation.execution.segments import neighbors
from curation.execution.worker.frame_buffer import FrameBuffer, Pixels
from curation.execution.worker.measure import KnownRows, Measurer, RowMeasured
from curation.execution.worker.overlap import MAX_CALLS, Overlap
from curation.ingest.media_readers import ImageReader, VideoReader
from curation.ingest.sources import OpenSource, open_source
from curation.media.decoder import DecoderSettings
from curation.media.views import SpanCollector
from curation.pipeline.rules import AllOf, decide, steps_of
from curation.records import Sample, Source
from curation.stage import Media, View


class EnrichPass:
    """Decodes samples one by one, holds their frames, and measures when the buffer is full."""

    def __init__(
        self,
        rule: AllOf,
        measurer: Measurer,
        overlap: Overlap,
        known: KnownRows,
        decoder: DecoderSettings,
        *,
        on_image: Callable[[str], None],
        on_frame: Callable[[], None],
        max_bytes: int,
        opened: OpenSource = open_source,
    ) -> None:
        """`rule` holds the captioner and the tokenizer; `known` gives the rows of former runs.

        `on_image` gets the URI before an image is decoded, `on_frame` is called after each video frame;
        `opened` opens a source; at most `max_bytes` of frames are held, or those of one sample.
        """
        self._rule = rule
        self._steps = [step for step in steps_of(rule) if step.key in measurer.allowed]
        self._measurer = measurer
        self._overlap = overlap
        self._known = known
        self._decoder = decoder
        self._on_image = on_image
        self._on_frame = on_frame
        self._opened = opened
        # With two calls out, the frames of three buffers are held.
        is_remote = bool(measurer.remote & {step.key for step in self._steps})
        self._max_bytes = max_bytes // (1 + MAX_CALLS) if is_remote else max_bytes
        self._buffer = FrameBuffer(self._max_bytes)

    def add_image(self, source: Source, samples: Iterable[Sample]) -> Iterator[RowMeasured]:
        """Decode an image for the samples of it that need something."""
        for sample in samples:
            max_pixels = self._decoder.max_pixels
            reader = ImageReader({sample.sample_id: source}, self._on_image, max_pixels, self._opened)
            yield from self._add(source, sample, self._pixels(reader, sample))

    def add_video(self, source: Source, samples: Sequence[Sample]) -> Iterator[RowMeasured]:
        """Decode a video around the samples of it that need something.

        Raises:
            SampleError: the video can't be decoded.
        """
        groups = list(neighbors(list(samples), can_seek=not source.clock_jumps))
        span_s = sum(group[-1].end_s - group[0].start_s for group in groups)
        for group in groups:
            collector = SpanCollector(group, {view for sample in group for view in self._views(sample)})
            start_s = group[0].start_s
            for frame in VideoReader(source, self._decoder, self._on_frame, start_s, self._opened, span_s):
                yield from self._add_windows(source, collector.push(frame), collector)
                if frame.pts_s >= group[-1].end_s:
                    break
            yield from self._add_windows(source, collector.finish(), collector)

    def finish(self) -> Iterator[RowMeasured]:
        """Measure all that is held, to the end."""
        yield from self._flush()
        yield from self._overlap.finish()

    def _flush(self) -> Iterator[RowMeasured]:
        held, self._buffer = self._buffer, FrameBuffer(self._max_bytes)
        decided = partial(decide, self._rule)
        yield from self._overlap.run(self._measurer.advance(held.samples, self._known, decided, held.media))

    def _pixels(self, reader: ImageReader, sample: Sample) -> Pixels:
        pixels: dict[View, Media | SampleError] = {}
        for view in self._views(sample):
            try:
                pixels[view] = reader.media(sample, view)
            except SampleError as error:
                pixels[view] = error
        return pixels

    def _add_windows(
        self, source: Source, windows: Iterable[Sample], collector: SpanCollector
    ) -> Iterator[RowMeasured]:
        for window in windows:
            pixels = {view: collector.media(view, source, window) for view in self._views(window)}
            collector.forget(window)
            yield from self._add(source, window, pixels)

    def _add(self, source: Source, sample: Sample, pixels: Pixels) -> Iterator[RowMeasured]:
        self._buffer.add(source, sample, pixels)
        if self._buffer.is_full:
            yield from self._flush()

    def _views(self, sample: Sample) -> list[View]:
        """The views of the steps that still have to measure a sample."""
        known = self._known(sample)
        views = [step.stage.view(sample.kind) for step in self._steps if step.key not in known]
        return list(dict.fromkeys(view for view in views if view is not None))
