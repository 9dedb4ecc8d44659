"""Media made on the spot, so that tests know every pixel and need no files from elsewhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.dataset_stage import GIVEN_COLUMNS
from curation.doctor.decoders import keeping_schedule
from curation.media.decode import decode_video, probe_video
from curation.media.frame import Frame
from curation.media.halvings import Halvings
from curation.media.sampling import Sampling
from curation.records import Sample, Source
from curation.splitter import CutFinder, Span
from curation.stage import Media, Setup, Stage, View

Pixels = NDArray[np.uint8]


def expected(shared_data: Path) -> dict[str, Any]:
    """The published and hand-checked values that lie beside the real media."""
    values: dict[str, Any] = json.loads((shared_data / "expected.json").read_text())
    return values


def a_source(path: Path | None = None, **header: Any) -> Source:
    """A source: of a video file with what its header says, else with the fields given."""
    if path is not None:
        found = probe_video(path)
        header = {
            "width": found.width,
            "height": found.height,
            "frame_rate": found.frame_rate,
            "duration_s": found.duration_s,
            "num_frames": found.num_frames,
            "codec": found.codec,
            "pixel_format": found.pixel_format,
            "num_discontinuities": found.num_discontinuities,
            "mirrored": found.mirrored,
            "interlaced": found.interlaced,
            "color_transfer": found.color_transfer,
        } | header
    kind = header.pop("kind", "video")
    return Source(source_id="s" * 20, uri="file:///a", kind=kind, size_bytes=1, etag="", **header)


def a_sample(start_s: float = 0.0, end_s: float = 1.0) -> Sample:
    return Sample.of_span("s" * 20, start_s, end_s)


def media_of(frames: Sequence[Pixels] | Pixels, fps: float = 2.0, **header: Any) -> Media:
    """What a stage gets for a sample with these frames."""
    pixels = np.stack(list(frames))
    halvings = [Halvings(frame) for frame in pixels]
    return Media(a_source(**header), pixels, np.arange(len(pixels)) / fps, halvings)


def measured(stage: Stage[Any], *media: Media) -> list[dict[str, Any]]:
    """The rows of one batch."""
    samples = [a_sample(float(number), number + 1.0) for number in range(len(media))]
    return stage.measure(samples, [stage.prepare(item) for item in media])


def no_models(device: str = "cpu") -> Setup:
    return Setup(device="cpu", revisions={})


def raises(error: Exception) -> Callable[[Sample, View | None], Media]:
    """A `media_of` for the core, of a sample whose pixels cannot be had."""

    def media_of_sample(sample: Sample, view: View | None) -> Media:
        raise error

    return media_of_sample


# Frames


def numbered(number: int, height: int = 6, width: int = 8) -> Pixels:
    """A flat frame whose color is `number`."""
    return np.full((height, width, 3), (number % 256, number // 256, 7), np.uint8)


def numbers_in(frames: Pixels) -> list[int]:
    """The numbers of `numbered` frames."""
    return [int(frame[0, 0, 0]) + 256 * int(frame[0, 0, 1]) for frame in frames]


def frames_at(times_s: Iterable[float]) -> Iterator[Frame]:
    """Frames that begin at these times, numbered in order."""
    for number, time_s in enumerate(times_s):
        yield Frame(time_s, number, lambda number=number: numbered(number))


def texture(height: int, width: int, seed: int = 0, cell: int = 8) -> Pixels:
    """Smooth colored blobs of about `cell` pixels, as dense flow needs them."""
    import cv2

    coarse = np.random.default_rng(seed).integers(
        0, 256, (-(-height // cell), -(-width // cell), 3), np.uint8
    )
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def moving_square(num_frames: int, step_px: int, side: int = 256, square: int = 96) -> Pixels:
    """A textured square that moves right over a still textured ground: [T, side, side, 3]."""
    ground, thing = texture(side, side, seed=1), texture(square, square, seed=2)
    frames = np.repeat(ground[np.newaxis], num_frames, axis=0)
    top = (side - square) // 2
    for number, frame in enumerate(frames):
        left = 8 + number * step_px
        frame[top : top + square, left : left + square] = thing
    return frames


def scenes_of(lengths: Sequence[int], height: int = 48, width: int = 64) -> list[Pixels]:
    """Still scenes of so many frames each, every one in another color."""
    colors = [(200, 40, 40), (40, 60, 220), (60, 200, 60), (220, 220, 40), (200, 60, 200)]
    return [
        np.full((height, width, 3), colors[scene % len(colors)], np.uint8)
        for scene, length in enumerate(lengths)
        for _ in range(length)
    ]


# Files


def write_video(
    path: Path,
    frames: Iterable[Pixels],
    *,
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    rate: Fraction | int = 25,
    times_ms: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    **options: str,
) -> Path:
    """Encode, without loss by default; `times_ms` are presentation times in place of a constant rate."""
    of_file = {key: options.pop(key) for key in ("movflags",) if key in options}
    with keeping_schedule(), av.open(str(path), "w", options=of_file) as file:
        stream: Any = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = file.add_stream(codec, rate=rate, options=options)
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], pix_fmt
                stream.codec_context.sample_aspect_ratio = aspect or Fraction(1)
                if times_ms is not None:
                    stream.codec_context.time_base = Fraction(1, 1000)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times_ms is not None:
                picture.pts, picture.time_base = times_ms[number], Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def joined(path: Path, *recordings: Path) -> Path:
    """Recordings one behind the other, as `cat` joins them: the clock begins again with each."""
    path.write_bytes(b"".join(recording.read_bytes() for recording in recordings))
    return path


TURNS = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}
"""Clockwise degrees -> a, b, c, d of an MP4 track matrix: x' = ax + cy, y' = bx + dy (ISO/IEC 14496-12)."""


def turn(path: Path, degrees: int) -> Path:
    """Write a clockwise turn into the track header of an MP4 file."""
    return with_matrix(path, *TURNS[degrees])


def with_matrix(path: Path, *matrix: float) -> Path:
    """Write a, b, c, d of a matrix into the track header of an MP4 file."""
    data = bytearray(path.read_bytes())
    matrix_at = data.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536) for value in matrix)
    data[matrix_at : matrix_at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_off(path: Path, fraction: float) -> Path:
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


# Splitting


def spans_of(finder: CutFinder, frames: Iterable[Frame], interval_s: float) -> list[Span]:
    """All spans of a source: the driver that the core is, without the core."""
    spans: list[Span] = []
    last_s = 0.0
    for frame in frames:
        spans += finder.push(frame)
        last_s = frame.pts_s
    return [*spans, *finder.finish(last_s + interval_s)]


def spans_of_file(stage: Any, path: Path) -> list[Span]:
    """As a pass finds them: what the stage is not sure to look at may be left out."""
    source = a_source(path)
    sampling = None if stage.step_fps is None else Sampling(stage.step_fps)
    frames = decode_video(path, sampling=sampling)
    return spans_of(stage.start(source), frames, float(1 / (source.frame_rate or 25)))


# Populations of dataset-wide stages


def population(number: int, **columns: Any) -> pa.Table:
    """What a dataset-wide stage is given: `number` samples of one size and length, but for `columns`."""
    given: dict[str, Any] = {
        "sample_id": [f"sample{index:05d}" for index in range(number)],
        "start_s": [0.0] * number,
        "end_s": [0.0] * number,
        "duration_s": [0.0] * number,
        "width": [640] * number,
        "height": [480] * number,
        "size_bytes": [1000] * number,
        "content_hash": [f"{index:064x}" for index in range(number)],
    }
    arrays = {
        name: pa.chunked_array([pa.array(values, GIVEN_COLUMNS.get(name))])
        for name, values in {**given, **columns}.items()
    }
    return pa.table(arrays)
