"""Every suffix that is listed stands for files that are read: each is written by FFmpeg or Pillow."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from curation.doctor.decoders import keeping_schedule
from curation.ingest.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kind_of
from curation.media.decode import decode_video
from curation.media.image import read_image

MUXERS = {
    ".3g2": ("3g2", "mpeg4"),
    ".3gp": ("3gp", "mpeg4"),
    ".asf": ("asf", "wmv2"),
    ".avi": ("avi", "mpeg4"),
    ".divx": ("avi", "mpeg4"),
    ".dv": ("dv", "dvvideo"),
    ".f4v": ("f4v", "libx264"),
    ".flv": ("flv", "flv"),
    ".ivf": ("ivf", "libvpx"),
    ".m2p": ("vob", "mpeg2video"),
    ".m2t": ("mpegts", "mpeg2video"),
    ".m2ts": ("mpegts", "mpeg2video"),
    ".m2v": ("mpeg2video", "mpeg2video"),
    ".m4v": ("mp4", "mpeg4"),
    ".mj2": ("mov", "jpeg2000"),
    ".mkv": ("matroska", "mpeg4"),
    ".mov": ("mov", "mpeg4"),
    ".mp4": ("mp4", "mpeg4"),
    ".mpe": ("mpeg", "mpeg1video"),
    ".mpeg": ("mpeg", "mpeg1video"),
    ".mpg": ("mpeg", "mpeg1video"),
    ".mts": ("mpegts", "libx264"),
    ".mxf": ("mxf", "mpeg2video"),
    ".nut": ("nut", "mpeg4"),
    ".ogm": ("ogg", "libvpx"),
    ".ogv": ("ogv", "libvpx"),
    ".ps": ("vob", "mpeg2video"),
    ".qt": ("mov", "mpeg4"),
    ".rm": ("rm", "rv20"),
    ".rmvb": ("rm", "rv20"),
    ".ts": ("mpegts", "mpeg2video"),
    ".vob": ("vob", "mpeg2video"),
    ".webm": ("webm", "libvpx"),
    ".wmv": ("asf", "wmv2"),
    ".y4m": ("yuv4mpegpipe", "rawvideo"),
}
"""Suffix -> FFmpeg's muxer for such files, and a codec that they hold."""
FORMATS = {
    ".apng": "PNG",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".j2k": "JPEG2000",
    ".jpf": "JPEG2000",
    ".pnm": "PPM",
    ".tga": "TGA",
}
"""Suffix -> Pillow's name of the format, where Pillow does not know the suffix itself."""


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_video(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix.upper()}"
    muxer, codec = MUXERS[suffix]
    width, height = (720, 576) if codec == "dvvideo" else (176, 144)
    with keeping_schedule(), av.open(str(path), "w", format=muxer) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for level in range(10):
            frame = av.VideoFrame.from_ndarray(
                np.full((height, width, 3), 20 * level, np.uint8), format="rgb24"
            )
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert kind_of(path.name) == "video"
    assert len(list(decode_video(path))) == 10


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_image(suffix: str, tmp_path: Path) -> None:
    if suffix in (".heic", ".heif"):
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = tmp_path / f"a{suffix.upper()}"
    mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
    Image.new(mode, (48, 48), "white").save(path, format=FORMATS.get(suffix))
    assert kind_of(path.name) == "image"
    pixels = read_image(path, 10_000)
    assert pixels.shape[0] == pixels.shape[1]
    assert pixels.min() > 250
