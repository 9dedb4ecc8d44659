"""Videos of odd kinds: sizes that change, fields, HDR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from curation.doctor.decoders import keeping_schedule

RATE = 25


Part = tuple[dict[str, str], list[Any]]
"""Options of an encoder, and the pictures that it is given."""


def write_parts(path: Path, codec: str, parts: Sequence[Part]) -> Path:
    """One stream of which every part was encoded by itself, at 25 frames per second."""
    with keeping_schedule(), av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=RATE, options=parts[0][0])
        stream.height, stream.width, stream.pix_fmt = *_size(parts[0]), "yuv420p"
        number = 0
        for part in parts:
            encoder: Any = av.CodecContext.create(codec, "w")
            encoder.height, encoder.width, encoder.pix_fmt = *_size(part), "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, RATE), Fraction(RATE)
            encoder.options, pictures = part
            packets = []
            for picture in pictures:
                picture.pts, picture.time_base, number = number, Fraction(1, RATE), number + 1
                packets += encoder.encode(picture)
            for packet in [*packets, *encoder.encode()]:
                packet.stream = stream
                file.mux(packet)
    return path


def _size(part: Part) -> tuple[int, int]:
    return part[1][0].height, part[1][0].width


def in_pictures(frames: Iterable[NDArray[np.uint8]]) -> list[Any]:
    return [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]


def write_changing(path: Path, parts: Sequence[Sequence[NDArray[np.uint8]]]) -> Path:
    """VP9 whose frames have another size in every part, told by key frames, as WebRTC does."""
    options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
    return write_parts(path, "libvpx-vp9", [(options, in_pictures(part)) for part in parts])


def filtered(pictures: Iterable[Any], *steps: tuple[str, str]) -> Iterator[Any]:
    """Pictures through a chain of FFmpeg's filters, as one stream."""
    graph: Any = None
    for picture in pictures:
        if graph is None:
            graph = av.filter.Graph()
            last = graph.add_buffer(
                width=picture.width,
                height=picture.height,
                format=picture.format.name,
                time_base=picture.time_base,
            )
            for name, arguments in (*steps, ("buffersink", "")):
                step = graph.add(name, arguments)
                last.link_to(step)
                last = step
            graph.configure()
        graph.push(picture)
        yield from _pulled(graph)
    graph.push(None)
    yield from _pulled(graph)


def _pulled(graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def moving_bar(number: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """A gray ramp with a bright bar that moves by 3 pixels from field to field."""
    frame = np.broadcast_to(np.linspace(40, 120, width, dtype=np.uint8)[None, :, None], (height, width, 3))
    frame = frame.copy()
    left = 3 * number % (width - 16)
    frame[:, left : left + 16] = 230
    return frame


def write_interlaced(path: Path, *nums: int) -> Path:
    """H.264 in fields, the lower one first, 25 frames of 50 moments per second.

    `nums` are numbers of frames: interlaced ones, then progressive ones, and so on in turns.
    """
    parts: list[Part] = []
    for place, num in enumerate(nums):
        params = f"keyint=10:bframes=2:scenecut=0:repeat-headers=1:bff={1 - place % 2}"
        pictures = list(_woven(num)) if place % 2 == 0 else in_pictures(moving_bar(2 * k) for k in range(num))
        if pictures:
            parts.append(({"x264-params": params, "qp": "10"}, pictures))
    return write_parts(path, "libx264", parts)


def _woven(num_frames: int) -> Iterator[Any]:
    for number in range(num_frames):
        frame = moving_bar(2 * number)
        frame[::2] = moving_bar(2 * number + 1)[::2]
        yield av.VideoFrame.from_ndarray(frame, format="rgb24")


def combing(pixels: NDArray[np.uint8]) -> float:
    """How much lines differ from the mean of their neighbors: high where two moments are woven."""
    luma = pixels.astype(float).mean(axis=-1)
    return float(np.abs(luma[1:-1] - (luma[:-2] + luma[2:]) / 2).mean())


HDR_CODES = {"smpte2084": 16, "arib-std-b67": 18}
"""ITU-T H.273."""


def hdr_planes(height: int = 96, width: int = 128, *, highest: int = 640) -> list[NDArray[np.uint16]]:
    """Y, Cb and Cr of a smooth colored picture, 10 bits, limited range, within the range of R'G'B'."""
    down, across = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    luma = 200 + (highest - 200) * (0.5 + 0.5 * np.sin(5 * across + 3 * down))
    blue = 512 + 60 * np.sin(4 * down + 30 * across)
    red = 512 + 60 * np.cos(30 * across - 2 * down)
    return [np.rint(plane).astype(np.uint16) for plane in (luma, blue, red)]


def write_hdr(
    path: Path, planes: Sequence[NDArray[np.uint16]], transfer: str, *, num_frames: int = 2
) -> Path:
    """Lossless HEVC, 10 bits, BT.2020, 4:2:0 with chroma at the left."""
    coding = "log-level=none:lossless=1:bframes=0:pools=1:frame-threads=1"
    colors = f"transfer={transfer}:colorprim=bt2020:colormatrix=bt2020nc:range=limited"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx265", rate=RATE, options={"x265-params": f"{coding}:{colors}"})
        stream.height, stream.width, stream.pix_fmt = *planes[0].shape, "yuv420p10le"
        for number in range(num_frames):
            picture: Any = av.VideoFrame(stream.width, stream.height, "yuv420p10le")
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            for plane, values in zip(
                picture.planes, (planes[0], *(p[::2, ::2] for p in planes[1:])), strict=True
            ):
                padded = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                padded[:, : plane.width] = values
                plane.update(padded.tobytes())
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path
