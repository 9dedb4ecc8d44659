"""Opens videos and decodes them from front to back. The only module that imports PyAV."""

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

    Attributes:
        width, height: Pixels after rotation and sample aspect ratio.
        frame_rate: Average frames per second, exact; None where the container names none below 240.
        duration_s: Seconds, None where the container names none below ten days.
        num_frames: The container's count, None where it has none.
    """

    width: int
    height: int
    frame_rate: Fraction | None
    duration_s: float | None
    num_frames: int | None
    codec: str
    rotation: int


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
        width, height = _upright_size(first, stream.sample_aspect_ratio)
        rate = stream.average_rate
        return VideoHeader(
            width=width,
            height=height,
            frame_rate=Fraction(rate) if rate and 0 < rate <= MAX_FRAME_RATE else None,
            duration_s=_duration_s(container, stream),
            num_frames=stream.frames or None,
            codec=stream.codec_context.name,
            rotation=-first.rotation % 360,
        )


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


def decode_video(path: Path) -> Iterator[Frame]:
    """Every frame of the main stream in presentation order, rendered on demand.

    A frame is valid as long as the caller keeps it. A frame without a time follows its predecessor
    by one frame interval.

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
        frames = container.decode(stream)
        while True:
            try:
                picture = next(frames, None)
            except (av.FFmpegError, ValueError) as error:
                whole = f" of {promised}" if promised else ""
                raise DecodeError(f"stopped after {index}{whole} frames: {_reason(error)}") from error
            if picture is None:
                return
            pts_s = picture.time if picture.time is not None else last_s + interval_s
            yield Frame(pts_s, index, partial(_render, picture, stream.sample_aspect_ratio))
            index, last_s = index + 1, pts_s


def _render(picture: Any, aspect: Fraction | None) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB: square pixels, then turned upright."""
    import numpy as np

    pixels: NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    width = _square_width(picture.width, aspect)
    if width != picture.width:
        import cv2

        pixels = cv2.resize(pixels, (width, picture.height), interpolation=cv2.INTER_LINEAR)
    turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
