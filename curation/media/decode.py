"""Opens videos with PyAV and decodes them from front to back. The only module that imports it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import DecodeError, ProbeError
from curation.media.frame import Frame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The container and its main video stream: the one FFmpeg holds for the best, usually the largest.

    Raises:
        ProbeError: not a video.
    """
    import av

    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise ProbeError(f"the file can't be read: {error.strerror or error}") from error
    if size_bytes == 0:
        raise ProbeError("the file is empty")
    av.logging.set_level(av.logging.PANIC)
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise ProbeError(f"not a video: {_reason(error)}") from error
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ProbeError("the file has no video stream that can be decoded")
        yield container, stream


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What the container says, and the first frame confirms.

    Where the container names no frame rate of at most 240, or no duration of at most a day, rate,
    duration and number of frames are those of the packets instead; None if these have no times.

    Attributes:
        width, height: Pixels after rotation and sample aspect ratio.
        frame_rate: Average frames per second, exact.
        duration_s: Seconds.
        num_frames: The container's count, None where it has none.
        color_transfer: FFmpeg's name of the transfer function, None where it is not said.
        sample_aspect_ratio: Width to height of a stored pixel, as "4/3"; None for square pixels.
    """

    width: int
    height: int
    frame_rate: Fraction | None
    duration_s: float | None
    num_frames: int | None
    codec: str
    rotation: int
    stream_index: int
    pixel_format: str
    color_transfer: str | None
    sample_aspect_ratio: str | None


_TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    11: "iec61966-2-4",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    18: "arib-std-b67",
}
"""ITU-T H.273 transfer characteristics."""
MAX_FRAME_RATE = 240
MAX_DURATION_S = 86_400.0


def probe_video(path: Path) -> VideoHeader:
    """Read the header and decode one frame, which knows rotation and true size.

    Raises:
        ProbeError: not a video, no video stream, or not one frame can be decoded.
    """
    import av

    with _opened(path) as (container, stream):
        try:
            first = next(container.decode(stream), None)
        except (av.FFmpegError, ValueError) as error:
            raise ProbeError(f"no frame can be decoded: {_reason(error)}") from error
        if first is None:
            raise ProbeError("the file holds no frame")
        timing = _timing(container, stream) or _timing_of_packets(container, stream)
        width, height = _upright_size(first, stream.sample_aspect_ratio)
        aspect = stream.sample_aspect_ratio
        return VideoHeader(
            width=width,
            height=height,
            frame_rate=timing.frame_rate,
            duration_s=timing.duration_s,
            num_frames=timing.num_frames,
            codec=stream.codec_context.codec.canonical_name,
            rotation=-first.rotation % 360,
            stream_index=stream.index,
            pixel_format=first.format.name,
            color_transfer=_TRANSFERS.get(int(first.color_trc)),
            sample_aspect_ratio=str(aspect) if aspect and aspect != 1 else None,
        )


@dataclass(frozen=True, slots=True)
class _Timing:
    frame_rate: Fraction | None
    duration_s: float | None
    num_frames: int | None


def _timing(container: Any, stream: Any) -> _Timing | None:
    """As the header has it, if that can be believed."""
    rate, duration_s = stream.average_rate, _duration_s(container, stream)
    if not rate or not 0 < rate <= MAX_FRAME_RATE or duration_s is None:
        return None
    return _Timing(Fraction(rate), duration_s, stream.frames or None)


def _timing_of_packets(container: Any, stream: Any) -> _Timing:
    """From the packets' times: reads the file to its end, but decodes nothing."""
    times = _times_of_packets(container, stream)
    span = times[-1] - times[0] if times else Fraction(0)
    if not span:
        return _Timing(None, None, len(times) or None)
    rate = ((len(times) - 1) / span).limit_denominator(1001)
    return _Timing(rate, float(span + 1 / rate), len(times))


def _times_of_packets(container: Any, stream: Any) -> list[Fraction]:
    import av

    times = []
    try:
        container.seek(0)
        for packet in container.demux(stream):
            if packet.pts is not None:
                times.append(packet.pts * packet.time_base)
    except av.FFmpegError:
        # What breaks off here breaks off in decoding too, where it is reported.
        pass
    return sorted(times)


@dataclass(frozen=True, slots=True)
class PacketTimes:
    """What a decoder without them needs to know of a video.

    Attributes:
        times_s: Presentation times in seconds, rising.
        rotation: Clockwise degrees by which pictures must be turned.
        aspect: Width to height of a stored pixel.
    """

    times_s: list[float]
    rotation: int
    aspect: Fraction | None


def packet_times(path: Path) -> PacketTimes:
    """Times of all frames, from the packets; only the first frame is decoded.

    Raises:
        ProbeError: not a video.
    """
    import av

    with _opened(path) as (container, stream):
        try:
            first = next(container.decode(stream), None)
        except (av.FFmpegError, ValueError) as error:
            raise ProbeError(f"no frame can be decoded: {_reason(error)}") from error
        rotation = 0 if first is None else -first.rotation % 360
        times = _times_of_packets(container, stream)
        return PacketTimes([float(time) for time in times], rotation, stream.sample_aspect_ratio)


def _duration_s(container: Any, stream: Any) -> float | None:
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / 1e6
    else:
        return None
    return seconds if 0 < seconds < MAX_DURATION_S else None


def _upright_size(frame: Any, aspect: Fraction | None) -> tuple[int, int]:
    width = _square_width(frame.width, aspect)
    return (frame.height, width) if frame.rotation % 180 else (width, frame.height)


def _square_width(width: int, aspect: Fraction | None) -> int:
    """The width in square pixels: a stored pixel may be wider than high."""
    return max(1, round(width * aspect)) if aspect and 0 < aspect != 1 else width


SEEKABLE_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1"})
"""Codecs in which decoding from a key frame was found to give the same frames as from the start."""
ROLL_IN_S = 1.0
"""How much earlier than asked decoding begins, so that open groups of pictures are whole by then."""


def decode_video(path: Path, start_s: float = 0.0) -> Iterator[Frame]:
    """Frames of the main stream in presentation order, rendered on demand: from the key frame before
    `start_s` on where the codec allows it, else from the first.

    A frame is valid as long as the caller keeps it; `index` counts from the first one given. A frame
    without a time follows its predecessor by one frame interval.

    Raises:
        ProbeError: not a video.
        DecodeError: the stream is damaged or cut off; the message says after how many frames.
    """
    import av

    index = 0
    with _opened(path) as (container, stream):
        stream.thread_count = 1
        interval_s = float(1 / stream.average_rate) if stream.average_rate else 0.04
        promised = stream.frames
        last_s = -interval_s
        _seek(container, stream, start_s)
        frames = container.decode(stream)
        while True:
            try:
                picture = next(frames, None)
            except (av.FFmpegError, ValueError) as error:
                after = f"after {index} of {promised} frames" if promised else f"after {index} frames"
                where = f"at {last_s:.3f} s" if start_s > 0 else after
                raise DecodeError(f"stopped {where}: {_reason(error)}") from error
            if picture is None:
                return
            pts_s = picture.time if picture.time is not None else last_s + interval_s
            yield Frame(pts_s, index, partial(_render, picture, stream.sample_aspect_ratio))
            index, last_s = index + 1, pts_s


def _seek(container: Any, stream: Any, start_s: float) -> None:
    """Go to a key frame before `start_s`, or stay at the beginning if none is found there."""
    import av

    target_s = start_s - ROLL_IN_S
    if target_s <= 0 or stream.codec_context.codec.canonical_name not in SEEKABLE_CODECS:
        return
    try:
        container.seek(int(target_s / stream.time_base), stream=stream)
        first = next(container.decode(stream), None)
        found = first is not None and first.time is not None and first.time <= target_s
        container.seek(int(target_s / stream.time_base) if found else 0, stream=stream)
    except av.FFmpegError:
        container.seek(0)


def _render(picture: Any, aspect: Fraction | None) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB: square pixels, then turned upright."""
    import numpy as np

    pixels: NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    pixels = with_square_pixels(pixels, aspect)
    turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def with_square_pixels(
    pixels: NDArray[np.uint8], aspect: Fraction | None, *, sideways: bool = False
) -> NDArray[np.uint8]:
    """Stretched so that pixels of this width to height become square.

    `sideways`: the picture has been turned by a quarter already, so that stored width is height now.
    """
    height, width = pixels.shape[:2]
    size = (width, _square_width(height, aspect)) if sideways else (_square_width(width, aspect), height)
    if size == (width, height):
        return pixels
    import cv2

    stretched: NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    return stretched
