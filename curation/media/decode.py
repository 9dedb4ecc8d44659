"""Opens videos with PyAV, reads their headers, and decodes them from front to back.

`curation.media.skipping` leaves out what nobody looks at, `curation.media.pictures` makes frames of what is
decoded; nothing else imports PyAV.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from curation.errors import DecodeError, ProbeError
from curation.media.file import MediaFile, rewound, size_of
from curation.media.frame import Frame
from curation.media.image import MAX_PIXELS
from curation.media.pictures.orientation import Orientation, orientation_of
from curation.media.pictures.render import DEFAULT_RENDERING, Renderer, Rendering, shown_size, too_large
from curation.media.sampling import Sampling
from curation.media.skipping import Shown, SkippingDecoder, can_skip
from curation.media.timeline import Timeline, TimeStamps, timeline_of

_FORMATS = (
    *(
        "asf",
        "asf_o",
        "av1",
        "avi",
        "dirac",
        "dv",
        "flv",
        "gif",
        "h261",
        "h263",
        "h264",
        "hevc",
        "ivf",
        "m4v",
    ),
    *(
        "matroska",
        "mov",
        "mpeg",
        "mpegts",
        "mpegvideo",
        "mxf",
        "nut",
        "obu",
        "ogg",
        "rm",
        "vc1",
        "yuv4mpegpipe",
    ),
)
"""Demuxers that read one file and no other. FFmpeg goes by content, whatever a file is called, and playlists
(HLS, DASH, concat, SDP) and scripts would have it open what they name."""
_OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
_BUFFER_BYTES = 1 << 16
"""What FFmpeg asks of a file that is no path at a time; its default of 32 kB for paths stays."""


@contextmanager
def _opened(file: MediaFile) -> Iterator[Any]:
    """The container and its main video stream: the one FFmpeg holds for the best, usually the largest.

    Raises:
        ProbeError: not a video.
    """
    import av

    try:
        size_bytes = size_of(file)
    except OSError as error:
        raise ProbeError(f"the file can't be read: {error.strerror or error}") from error
    if size_bytes == 0:
        raise ProbeError("the file is empty")
    av.logging.set_level(av.logging.PANIC)
    try:
        # An absolute path is never taken for a URL, as a file called "concat:a.mp4" would be.
        source = rewound(file.absolute() if isinstance(file, Path) else file)
        container = av.open(
            source, metadata_errors="ignore", buffer_size=_BUFFER_BYTES, options=dict(_OPTIONS)
        )
    except (av.FFmpegError, ValueError) as error:
        raise ProbeError(f"not a video: {_reason(error)}") from error
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ProbeError("the file has no video stream that can be decoded")
        yield container, stream


def _reason(error: Exception) -> str:
    import av

    if isinstance(error, av.error.ArgumentError):
        return "it is in no format that is read"
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What the container says, and the first frame confirms.

    Where the container names no frame rate of at most 240, or no duration of at most a day, or its clock
    jumps, rate, duration and number of frames are those of the packets instead; None if these have no
    times.

    Attributes:
        width, height: Square pixels of the first frame, upright.
        frame_rate: Average frames per second, exact.
        duration_s: Seconds.
        num_frames: The container's count, None where it has none.
        rotation: Clockwise degrees, a multiple of 90, by which pictures are turned after mirroring.
        mirrored: Whether left and right are exchanged first.
        interlaced: Whether the first frame or the header says so.
        color_transfer: FFmpeg's name of the transfer function, None where it is not said.
        sample_aspect_ratio: Width to height of a stored pixel, as "4/3"; None for square pixels.
        num_discontinuities: How often the clock jumps, by the packets.
    """

    width: int
    height: int
    frame_rate: Fraction | None
    duration_s: float | None
    num_frames: int | None
    codec: str
    rotation: int
    mirrored: bool
    interlaced: bool
    stream_index: int
    pixel_format: str
    color_transfer: str | None
    sample_aspect_ratio: str | None
    num_discontinuities: int


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


_PROGRESSIVE = 1
"""FFmpeg's field orders: 0 is unknown, and those above 1 are interlaced."""


def probe_video(file: MediaFile, max_pixels: int = MAX_PIXELS) -> VideoHeader:
    """Read the header, the times of all packets, and one frame, which knows orientation and true size.

    Raises:
        ProbeError: not a video, no video stream, more than `max_pixels` with square pixels, or not one
            frame can be decoded.
    """
    with _opened(file) as (container, stream):
        aspect = stream.sample_aspect_ratio
        _check_size(stream.codec_context, aspect, max_pixels)
        first, stamps = _scanned(container, stream)
        _check_size(first, aspect, max_pixels)
        timeline = _timeline(container, stream, stamps)
        timing = None if timeline.joints else _timing(container, stream)
        timing = timing or _timing_of_packets(timeline.times(stamps), stream.time_base)
        orientation = orientation_of(first)
        height, width = shown_size(first, aspect, orientation)
        return VideoHeader(
            width=width,
            height=height,
            frame_rate=timing.frame_rate,
            duration_s=timing.duration_s,
            num_frames=timing.num_frames,
            codec=stream.codec_context.codec.canonical_name,
            rotation=orientation.rotation,
            mirrored=orientation.mirrored,
            interlaced=bool(first.interlaced_frame or stream.codec_context.field_order > _PROGRESSIVE),
            stream_index=stream.index,
            pixel_format=first.format.name,
            color_transfer=_TRANSFERS.get(int(first.color_trc)),
            sample_aspect_ratio=str(aspect) if aspect and aspect != 1 else None,
            num_discontinuities=len(timeline.joints),
        )


def _check_size(sized: Any, aspect: Fraction | None, max_pixels: int) -> None:
    """Refuse what is too large; `sized` is a picture or a codec's header."""
    reason = too_large(sized.width, sized.height, aspect, max_pixels)
    if reason is not None:
        raise ProbeError(reason)


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


def _timing_of_packets(times: list[int], time_base: Fraction) -> _Timing:
    span = (times[-1] - times[0]) * time_base if times else Fraction(0)
    if not span:
        return _Timing(None, None, len(times) or None)
    rate = ((len(times) - 1) / span).limit_denominator(1001)
    return _Timing(rate, float(span + 1 / rate), len(times))


def _scanned(container: Any, stream: Any) -> tuple[Any, TimeStamps]:
    """The first picture, and the time stamps of all packets: reads the whole file, decodes one frame.

    Raises:
        ProbeError: not one frame can be decoded.
    """
    import av

    first, stamps = None, TimeStamps()
    try:
        for packet in container.demux(stream):
            stamps.add(packet.pts, packet.dts)
            if first is None:
                first = next(iter(packet.decode()), None)
    except (av.FFmpegError, ValueError) as error:
        if first is None:
            raise ProbeError(f"no frame can be decoded: {_reason(error)}") from error
        # What breaks off here breaks off in decoding too, where it is reported.
    if first is None:
        raise ProbeError("the file holds no frame")
    return first, stamps


def _timeline(container: Any, stream: Any, stamps: TimeStamps) -> Timeline:
    import av.format

    # FFmpeg marks the formats whose clock may jump. They store decoding times.
    has_own_dts = bool(container.format.flags & av.format.Flags.ts_discont.value)
    return timeline_of(stamps, stream.time_base, has_own_dts=has_own_dts)


@dataclass(frozen=True, slots=True)
class PacketTimes:
    """What a decoder without them needs to know of a video.

    Attributes:
        times_s: Presentation times in seconds, rising.
        orientation: How pictures must be turned.
        aspect: Width to height of a stored pixel.
    """

    times_s: list[float]
    orientation: Orientation
    aspect: Fraction | None


def packet_times(file: MediaFile) -> PacketTimes:
    """Times of all frames, from the packets; only the first frame is decoded.

    Raises:
        ProbeError: not a video, or not one frame can be decoded.
    """
    with _opened(file) as (container, stream):
        first, stamps = _scanned(container, stream)
        times = _timeline(container, stream, stamps).times(stamps)
        times_s = [float(ticks * stream.time_base) for ticks in times]
        return PacketTimes(times_s, orientation_of(first), stream.sample_aspect_ratio)


def _duration_s(container: Any, stream: Any) -> float | None:
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / 1e6
    else:
        return None
    return seconds if 0 < seconds < MAX_DURATION_S else None


SEEKABLE_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1"})
"""Codecs in which decoding from a key frame was found to give the same frames as from the start."""
_ROUNDING_S = 1e-6
ROLL_IN_S = 1.0
"""How much earlier than asked decoding begins, so that open groups of pictures are whole by then."""


def decode_video(
    file: MediaFile,
    start_s: float = 0.0,
    rendering: Rendering = DEFAULT_RENDERING,
    timeline: Timeline | None = None,
    sampling: Sampling | None = None,
) -> Iterator[Frame]:
    """Frames of the main stream in presentation order, rendered on demand: from the key frame before
    `start_s` on where the codec allows it, else from the first.

    A frame is valid as long as the caller keeps it; `index` counts from the first one given. A frame
    without a time follows its predecessor by one frame interval; no time is before its predecessor's.

    `timeline`: frames get its times in place of the container's, from the first frame on.

    `sampling`: the frames that are sure to be looked at. Others may be left out; these are decoded when
    somebody looks at them after all, before the next frame is asked for or at any time later.

    Raises:
        ProbeError: not a video.
        DecodeError: the stream is damaged or cut off, or a frame has too many pixels; the message says
            after how many frames.
    """
    import av

    with _opened(file) as (container, stream):
        stream.thread_count = 1
        if timeline is None:
            _seek(container, stream, start_s)
        place = _Place(stream, start_s)
        aspect = stream.sample_aspect_ratio
        items = _sized(_items(container, stream, timeline, sampling), aspect, rendering.max_pixels)
        renderer = Renderer(rendering, aspect)
        while True:
            try:
                item = next(items, None)
            except (av.FFmpegError, ValueError) as error:
                yield from renderer.finish()
                raise place.stopped(error) from error
            if item is None:
                yield from renderer.finish()
                return
            pts_s, index = place.next(item.time_s)
            if item.picture is None:
                frames = iter([renderer.promise(partial(_decoded_late, item, place), pts_s, index)])
            else:
                now = stream.codec_context.sample_aspect_ratio
                frames = renderer.push(item.picture, pts_s, index, now)
            for frame in frames:
                item.mark(frame)
                yield frame


class _Place:
    """How far decoding has come."""

    def __init__(self, stream: Any, start_s: float) -> None:
        self._promised = stream.frames
        self._from_start = start_s <= 0
        self._interval_s = float(1 / stream.average_rate) if stream.average_rate else 0.04
        self._index = 0
        self._last_s = -self._interval_s

    def next(self, time_s: float | None) -> tuple[float, int]:
        """Time and number of the next frame, which has this time or none."""
        pts_s = time_s if time_s is not None else self._last_s + self._interval_s
        self._last_s = max(pts_s, self._last_s) if self._index else pts_s
        self._index += 1
        return self._last_s, self._index - 1

    def stopped(self, error: Exception) -> DecodeError:
        """The error, and where it was met."""
        after = f"{self._index} of {self._promised}" if self._promised else str(self._index)
        where = f"after {after} frames" if self._from_start else f"at {self._last_s:.3f} s"
        return DecodeError(f"stopped {where}: {_reason(error)}")


def _decoded_late(item: Shown, place: _Place) -> tuple[Any, Any, Any]:
    """The pictures of a frame that was left out at first."""
    import av

    try:
        return item.pictures()
    except (av.FFmpegError, ValueError) as error:
        raise place.stopped(error) from error


def _items(
    container: Any, stream: Any, timeline: Timeline | None, sampling: Sampling | None
) -> Iterator[Shown]:
    """What is shown, with the times of the timeline if there is one."""
    if sampling is not None and timeline is None and can_skip(stream):
        return iter(SkippingDecoder(container.demux(stream), stream, sampling))
    return (Shown(picture, picture.time) for picture in _decoded(container, stream, timeline))


def decode_recordings(file: MediaFile, rendering: Rendering = DEFAULT_RENDERING) -> Iterator[Frame]:
    """All frames of a video whose clock jumps, on its timeline; the first behind each jump is marked.

    Raises:
        ProbeError, DecodeError: as `decode_video`.
    """
    timeline = _timeline_of_file(file)
    joints_s = deque(timeline.joints_s)
    for frame in decode_video(file, rendering=rendering, timeline=timeline):
        while joints_s and frame.pts_s > joints_s[0] - _ROUNDING_S:
            joints_s.popleft()
            frame.follows_jump = True
        yield frame


def _decoded(container: Any, stream: Any, timeline: Timeline | None) -> Iterator[Any]:
    """Pictures, with the times of the timeline if there is one."""
    if timeline is None:
        yield from container.decode(stream)
        return
    for number, packet in enumerate(container.demux(stream)):
        # Decoding times stand in where there are no others; where there are, they may be far off.
        stands_in = packet.pts is None
        packet.pts = timeline.moved(number, packet.pts)
        packet.dts = timeline.moved(number, packet.dts) if stands_in else None
        yield from packet.decode()


def _timeline_of_file(file: MediaFile) -> Timeline:
    import av

    with _opened(file) as (container, stream):
        stamps = TimeStamps()
        with suppress(av.FFmpegError):  # decoding meets it again, and reports it
            for packet in container.demux(stream):
                stamps.add(packet.pts, packet.dts)
        return _timeline(container, stream, stamps)


def _sized(items: Iterator[Shown], aspect: Fraction | None, max_pixels: int) -> Iterator[Shown]:
    """The same items; a ValueError at the first whose picture is too large."""
    for item in items:
        if item.picture is not None:
            reason = too_large(item.picture.width, item.picture.height, aspect, max_pixels)
            if reason is not None:
                raise ValueError(reason)
        yield item


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
