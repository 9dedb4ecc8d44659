"""Decoders: each codec on a sample that is made here, decoded again and compared.

What is compared is the mean difference of the pictures, in levels of 0..255: a codec loses a little, while a
decoder with wrong colors, wrong strides or other pictures is far off.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.doctor.finding import Finding
from curation.errors import CurationError, EnvironmentFault
from curation.errors.isolation import isolated
from curation.media.decode import decode_video, probe_video
from curation.media.image import read_image

WIDTH, HEIGHT, NUM_FRAMES, FPS = 128, 96, 6, 12
MAX_DIFFERENCE = 12.0
"""Mean difference in levels: GIF, with its 256 colors, was 6.3 off, the worst video 3.9."""
VIDEO = {
    "h264": ("libx264", "mp4", {"preset": "ultrafast"}),
    "hevc": ("libx265", "mp4", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "vp8": ("libvpx", "webm", {"deadline": "realtime", "b": "1M"}),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8", "b": "1M"}),
    "av1": ("libsvtav1", "mp4", {"preset": "12"}),
    "mpeg4": ("mpeg4", "avi", {"b": "1M"}),
    "mpeg2video": ("mpeg2video", "ts", {"b": "1M"}),
    "mjpeg": ("mjpeg", "avi", {"pix_fmt": "yuvj420p"}),
    "prores": ("prores_ks", "mov", {"pix_fmt": "yuv422p10le"}),
}
"""Codec -> encoder of PyAV's FFmpeg, container, options."""
NO_ENCODER = ("wmv3", "vc1", "rv40", "theora")
"""Codecs of old collections for which there is no encoder anywhere here: said, not tested."""
IMAGES = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
"""Pillow's names of formats."""

Pixels = NDArray[np.uint8]


def check_decoders() -> Iterator[Finding]:
    """Each codec and each format of images that can be made here."""
    with tempfile.TemporaryDirectory() as folder:
        for codec, (encoder, suffix, options) in VIDEO.items():
            yield _checked(f"decoder {codec}", _video, Path(folder, f"{codec}.{suffix}"), (encoder, options))
        for name in IMAGES:
            yield _checked(f"decoder {name}", _image, Path(folder, f"a.{name.lower()}"), name)
    yield _untested()


def _untested() -> Finding:
    import av

    there = [codec for codec in NO_ENCODER if codec in av.codecs_available]
    missing = [codec for codec in NO_ENCODER if codec not in there]
    text = f"no encoder to test them with: {', '.join(there) or 'none'}"
    if missing:
        text += f"; not in this FFmpeg: {', '.join(missing)}"
    return Finding("decoders", "ok", text)


def picture(number: int = 0) -> Pixels:
    """A smooth [HEIGHT, WIDTH, 3] picture that moves with its number."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    shift = 8 * number
    channels = (
        128 + 100 * np.sin((x + shift) / 20),
        128 + 100 * np.cos((y - shift) / 18),
        40 + 170 * ((x + y + shift) % 224) / 224,
    )
    return np.stack(channels, axis=-1).astype(np.uint8)


def _checked(check: str, decode: Any, path: Path, how: Any) -> Finding:
    try:
        with isolated(EnvironmentFault):
            difference = decode(path, how)
    except CurationError as error:
        return Finding(check, "failed", str(error), "reinstall av and pillow")
    if difference is None:
        return Finding(check, "ok", "no encoder to test it with")
    if difference > MAX_DIFFERENCE:
        return Finding(check, "failed", f"{difference:.1f} levels off", "reinstall av and pillow")
    return Finding(check, "ok", f"{difference:.1f} levels off")


@contextmanager
def keeping_schedule() -> Iterator[None]:
    """Give the process back the schedule that it had.

    SVT-AV1 makes whoever encodes with it, where that is root, a real-time process: one thread that spins
    then starves the machine, and so do all processes that it starts later.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _video(path: Path, how: tuple[str, dict[str, str]]) -> float | None:
    """Mean difference of a video's frames from what was encoded; None without an encoder."""
    import av

    encoder, options = how
    if encoder not in av.codecs_available:
        return None
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 says on standard error what it is, else
    options = dict(options)
    pixel_format = options.pop("pix_fmt", "yuv420p")
    with keeping_schedule(), av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    header = probe_video(path)
    frames = [frame.pixels for frame in decode_video(path)]
    if len(frames) != NUM_FRAMES or (header.width, header.height) != (WIDTH, HEIGHT):
        raise EnvironmentFault(f"{len(frames)} frames of {NUM_FRAMES} at {header.width}x{header.height}")
    return max(_difference(frame, picture(number)) for number, frame in enumerate(frames))


def _image(path: Path, name: str) -> float | None:
    """Mean difference of an image from what was encoded; None without an encoder."""
    from PIL import Image, features

    if name == "AVIF" and not features.check("avif"):
        return None
    Image.fromarray(picture()).save(path, name)
    return _difference(read_image(path), picture())


def _difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())
