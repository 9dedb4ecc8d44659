"""The filter pass over images: each is decoded once for all filters, and only if a filter wants pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from curation.execution.worker.first_reads import FirstReads
from curation.execution.worker.measure import KnownRows, Measurer, Measuring, RowMeasured
from curation.execution.worker.overlap import MAX_CALLS, Overlap
from curation.ingest.media_readers import ImageReader
from curation.ledger.unit_state import branch_steps, decide_sample
from curation.pipeline import Branch
from curation.records import Sample, Source

CHUNK_IMAGES = 16
"""Images that are held decoded at the same time, at most."""
REMOTE_CHUNK_IMAGES = 64
"""The same where model workers measure some of it, which are quick with large batches only."""


class ImagePass:
    """Images under the filters of their branch."""

    def __init__(
        self,
        branch: Branch,
        measurer: Measurer,
        overlap: Overlap,
        known: KnownRows,
        on_decode: Callable[[str], None],
        *,
        reads: FirstReads,
        max_pixels: int,
        max_bytes: int,
        short_side: int | None = None,
    ) -> None:
        """`known` gives the rows of former runs; `on_decode` gets the URI before each decode.

        `reads` opens the images, and closes those that it has probed. Images of more than `max_pixels` fail;
        at most `max_bytes` are held decoded, or one image. JPEGs are decoded as small as leaves `short_side`.
        """
        self._branch = branch
        self._measurer = measurer
        self._overlap = overlap
        self._known = known
        self._on_decode = on_decode
        self._reads = reads
        self._short_side = short_side
        self._max_pixels = max_pixels
        self._max_bytes = max_bytes

    def filter(self, sources: Iterable[Source]) -> Iterator[RowMeasured]:
        """Measure what the images need, chunk by chunk."""
        is_remote = bool(self._measurer.remote & {step.key for step in branch_steps(self._branch)})
        # With two calls out, the images of three chunks are held.
        size, share = (REMOTE_CHUNK_IMAGES, 1 + MAX_CALLS) if is_remote else (CHUNK_IMAGES, 1)
        for chunk in chunks_of(sources, self._max_bytes // share, size):
            yield from self._overlap.run(self._filter_chunk(chunk))
        yield from self._overlap.finish()

    def _filter_chunk(self, sources: Sequence[Source]) -> Measuring:
        samples = {Sample.of_image(source): source for source in sources}
        by_id = {sample.sample_id: source for sample, source in samples.items()}
        opened, short_side = self._reads.opened, self._short_side
        reader = ImageReader(by_id, self._on_decode, self._max_pixels, opened, short_side)
        decide = partial(decide_sample, self._branch)
        yield from self._measurer.advance(list(samples), self._known, decide, reader.media)
        for source in sources:
            self._reads.close(source)


def chunks_of(
    sources: Iterable[Source], max_bytes: int, max_images: int = CHUNK_IMAGES
) -> Iterator[list[Source]]:
    """Images in order, in chunks that take up to `max_bytes` decoded; a larger one is alone."""
    chunk: list[Source] = []
    num_bytes = 0
    for source in sources:
        size_bytes = 3 * (source.width or 0) * (source.height or 0)
        if chunk and (len(chunk) == max_images or num_bytes + size_bytes > max_bytes):
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(source)
        num_bytes += size_bytes
    if chunk:
        yield chunk
