"""Renders small pictures of samples, in a process of its own, because what it decodes is not trusted.

    python -m curation.execution.worker.filmstrips SETTINGS < JOBS    # a line of JSON per sample

`JOBS` is what `jobs_to_bytes` makes: `sources_to_table` with the columns of `SAMPLE`, a row per sample.
The process ends when its standard input is closed, whatever a decoder is doing.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from curation.errors import ChangedError, CurationError, DecodeError, ProbeError, SampleError
from curation.errors.isolation import isolated
from curation.ingest.locator import check_unchanged, locator_of
from curation.ingest.media_readers import ImageReader, VideoReader
from curation.ledger.schemas import SOURCES, sources_to_table, table_to_sources
from curation.media.decoder import DecoderSettings
from curation.media.views import SpanCollector
from curation.records import Sample, Source
from curation.stage import View
from curation.storage.hub.place import pin
from curation.storage.scratch import use_scratch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_FRAMES = 4
"""Pictures of a clip: the frames in the middle of so many equal parts of it."""
IMAGE_PX = 320
FRAME_PX = 224
"""Long sides of the one picture of an image, and of each picture of a clip."""
MAX_PICTURE_BYTES = 24_000
"""Larger JPEG files are encoded again, coarser and then smaller."""
MAX_SPAN_S = 20.0
"""In longer clips each frame is sought by itself, so that what lies between them is not decoded."""
MAX_CPU_S = 20.0
"""CPU time for one sample, after which the process ends."""
READY = "ready"
"""What the process says first."""
SAMPLE = pa.schema(
    [
        ("sample_id", pa.string()),
        ("sample_kind", pa.string()),
        ("sample_start_s", pa.float64()),
        ("sample_end_s", pa.float64()),
    ]
)
_LENGTH_BYTES = 8
_AROUND_S = 1.0
"""Before and behind the instant that a frame is wanted of, where videos have one at all."""
_QUALITIES = (82, 65, 45)
_SMALLER = 0.7


def render(source: Source, sample: Sample, decoder: DecoderSettings) -> list[bytes]:
    """JPEG files: one of an image, up to `NUM_FRAMES` of a clip in the order of time, no two alike.

    Raises:
        SampleError: the source can't be decoded, or is not what was listed.
        StorageError, EnvironmentFault: it can't be reached.
    """
    _check_version(source)
    # Hashing all of a large video, to show four frames of it, would take longer than everything else.
    source = replace(source, content_hash=None)
    if sample.kind == "image":
        return [jpeg_of(_image(source, sample, decoder), IMAGE_PX)]
    with isolated(DecodeError):
        pictures = [jpeg_of(frame, FRAME_PX) for frame in _frames(source, sample, decoder)]
    return list(dict.fromkeys(pictures))


def _check_version(source: Source) -> None:
    locator = locator_of(source.uri)
    storage, key = locator.open_storage()
    if storage.is_local:  # of a bucket the version that was listed is asked for
        check_unchanged(source, storage, key)


def _image(source: Source, sample: Sample, decoder: DecoderSettings) -> NDArray[np.uint8]:
    view = View(count=1, short_side=IMAGE_PX, halved=True)
    sources = {sample.sample_id: source}
    reader = ImageReader(sources, lambda _: None, decoder.max_pixels, short_side=IMAGE_PX)
    pixels: NDArray[np.uint8] = reader.media(sample, view).pixels[0]
    return pixels


def _frames(source: Source, sample: Sample, decoder: DecoderSettings) -> Iterator[NDArray[np.uint8]]:
    if sample.duration_s <= MAX_SPAN_S or source.clock_jumps:
        yield from _span(source, sample, decoder, View(count=NUM_FRAMES, short_side=FRAME_PX))
        return
    for part in range(NUM_FRAMES):
        middle_s = sample.start_s + sample.duration_s * (2 * part + 1) / (2 * NUM_FRAMES)
        around = replace(sample, start_s=middle_s - _AROUND_S, end_s=middle_s + _AROUND_S)
        yield from _span(source, around, decoder, View(count=1, short_side=FRAME_PX))


def _span(source: Source, sample: Sample, decoder: DecoderSettings, view: View) -> NDArray[np.uint8]:
    """[T, H, W, 3] uint8 RGB."""
    collector = SpanCollector([sample], [view])
    frames = VideoReader(source, decoder, lambda: None, sample.start_s, span_s=sample.duration_s)
    for frame in frames:
        if collector.push(frame):
            break
    else:
        collector.finish()
    return collector.media(view, source, sample).pixels


def jpeg_of(pixels: NDArray[np.uint8], long_side_px: int) -> bytes:
    """A JPEG file of `pixels` [H, W, 3] uint8 RGB, of `MAX_PICTURE_BYTES` at most; never enlarged."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, long_side_px / max(height, width))
    while True:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = pixels if scale == 1.0 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        for quality in _QUALITIES:
            encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(encoded) <= MAX_PICTURE_BYTES:
                return encoded
        scale *= _SMALLER


def jobs_to_bytes(jobs: Sequence[tuple[Source, Sample]]) -> bytes:
    """What the process reads: the length of an Arrow stream in eight bytes, and the stream."""
    table = sources_to_table([source for source, _ in jobs])
    samples = [(s.sample_id, s.kind, s.start_s, s.end_s) for _, s in jobs]
    for field, values in zip(SAMPLE, zip(*samples, strict=True), strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    stream_bytes: bytes = sink.getvalue().to_pybytes()
    return len(stream_bytes).to_bytes(_LENGTH_BYTES, "big") + stream_bytes


def _jobs(file: IO[bytes]) -> list[tuple[Source, Sample]]:
    """Inverse of `jobs_to_bytes`."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "big")
    table = pa.ipc.open_stream(file.read(length)).read_all()
    sources = table_to_sources(table.select(SOURCES.names))
    samples = (
        Sample(
            sample_id=row["sample_id"],
            source_id=source.source_id,
            kind=row["sample_kind"],
            start_s=row["sample_start_s"],
            end_s=row["sample_end_s"],
        )
        for source, row in zip(sources, table.select(SAMPLE.names).to_pylist(), strict=True)
    )
    return list(zip(sources, samples, strict=True))


def _answer(source: Source, sample: Sample, decoder: DecoderSettings) -> dict[str, Any]:
    """What is said of one sample; `lasting`: another attempt would say the same."""
    try:
        pictures, lasting = render(source, sample, decoder), True
    except CurationError as error:
        # What has gone or was changed may come back.
        is_away = isinstance(error, ProbeError | ChangedError) or not isinstance(error, SampleError)
        pictures, lasting = [], not is_away
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    return {"sample_id": sample.sample_id, "pictures": encoded, "lasting": lasting}


def _end_with_standard_input() -> None:
    """End this process when its standard input is closed: who started it has ended."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


def _main(arguments: str) -> None:
    settings = json.loads(arguments)
    use_scratch(settings["scratch"], settings["scratch_bytes"])
    pin(settings["commits"])
    decoder = DecoderSettings(**settings["decoder"])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print
    jobs = _jobs(sys.stdin.buffer)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    answers.write(f"{READY}\n")
    for source, sample in jobs:
        answers.flush()
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)  # the signal ends the process
        answers.write(json.dumps(_answer(source, sample, decoder)) + "\n")
    answers.close()


if __name__ == "__main__":
    _main(sys.argv[1])
