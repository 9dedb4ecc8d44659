"""Decodes videos with decord, within the limits that were found by comparing it with FFmpeg.

Frames and seeks of 8-bit H.264, VP8 and VP9 equal FFmpeg's. Elsewhere decord 0.6 is refused: it cannot
open AV1; random access in HEVC and MPEG gives other frames, and some HEVC transport streams come out
wrong from the start; 10-bit video has other colors; rows of less than 50 pixels get extra channels;
where the clock jumps its frames and the container's times can't be matched; flips are ignored, fields
are left interlaced, and HDR is not tone-mapped.
Its times are single precision and, for some containers, wrong: those of the packets are used instead.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from curation.errors import DecodeError
from curation.media.decode import ROLL_IN_S, PacketTimes, packet_times
from curation.media.frame import Frame
from curation.media.pictures.render import with_square_pixels
from curation.records import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CODECS = frozenset({"h264", "vp8", "vp9"})
MIN_SIDE_PX = 64
PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv444p"})


def refusal(source: Source) -> str | None:
    """Why decord is not to be trusted with a video; None if it is."""
    if source.codec not in CODECS:
        return f"decord is not known to decode {source.codec} right"
    if source.pixel_format not in PIXEL_FORMATS:
        return f"decord is not known to convert {source.pixel_format} right"
    if min(source.width or 0, source.height or 0) < MIN_SIDE_PX:
        return f"decord is not known to cope with {source.width}x{source.height} pixels"
    if source.clock_jumps:
        return "decord can't place the frames of a video whose clock jumps"
    if source.mirrored or source.interlaced or source.is_hdr:
        return "decord neither flips nor deinterlaces nor tone-maps"
    return None


def decode_with_decord(path: Path, start_s: float = 0.0) -> Iterator[Frame]:
    """Frames of the main stream in presentation order, from shortly before `start_s` on.

    Raises:
        ProbeError: not a video.
        DecodeError: the stream is damaged, cut off, or decord counts other frames than the container.
    """
    import decord

    packets = packet_times(path)
    try:
        reader = decord.VideoReader(str(path.absolute()), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise DecodeError(f"stopped after 0 frames: {_reason(error)}") from error
    if len(reader) != len(packets.times_s):
        raise DecodeError(f"decord finds {len(reader)} frames and the container {len(packets.times_s)}")
    first = max(0, bisect.bisect_right(packets.times_s, start_s - ROLL_IN_S) - 1)
    if first:
        reader.seek_accurate(first)
    for number in range(first, len(reader)):
        try:
            pixels = reader.next().asnumpy()
        except (decord.DECORDError, StopIteration) as error:
            total = len(packets.times_s)
            raise DecodeError(f"stopped after {number} of {total} frames: {_reason(error)}") from error
        yield _frame(packets, number, number - first, pixels)


def _frame(packets: PacketTimes, number: int, index: int, pixels: NDArray[np.uint8]) -> Frame:
    def render() -> NDArray[np.uint8]:
        # decord turns pictures upright, but leaves their pixels as wide as they are stored.
        return with_square_pixels(pixels, packets.aspect, sideways=packets.orientation.is_sideways)

    return Frame(packets.times_s[number], index, render)


def _reason(error: Exception) -> str:
    """The first line, without the place in decord's own sources that it begins with."""
    first, *_ = str(error).strip().splitlines() or ["the stream ends"]
    return re.sub(r"^.*\.cc:\d+: ", "", first)
