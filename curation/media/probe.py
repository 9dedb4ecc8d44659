"""Fills in a source's header fields, or the reason why it has none."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from curation.errors import SampleError
from curation.media.decode import probe_video
from curation.media.image import MAX_PIXELS, probe_image
from curation.records import Source


def probe(source: Source, path: Path, max_pixels: int = MAX_PIXELS) -> Source:
    """`source` with its content hash and header fields; `error_type` and `error` where it has no header."""
    source = _weighed(source, path)
    try:
        if source.kind == "image":
            return _probe_image(source, path, max_pixels)
        return _probe_video(source, path)
    except SampleError as error:
        return failed(source, error)


def failed(source: Source, error: SampleError) -> Source:
    """`source` as one that can't be used."""
    return replace(source, error_type=type(error).__name__, error=str(error))


def _weighed(source: Source, path: Path) -> Source:
    """With size and hash of the bytes; unchanged if they can't be read, which the prober reports."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return replace(source, content_hash=digest, size_bytes=file.tell())
    except OSError:
        return source


def _probe_image(source: Source, path: Path, max_pixels: int) -> Source:
    width, height, codec, rotation = probe_image(path, max_pixels)
    return replace(source, width=width, height=height, codec=codec, rotation=rotation)


def _probe_video(source: Source, path: Path) -> Source:
    header = probe_video(path)
    return replace(
        source,
        width=header.width,
        height=header.height,
        frame_rate=header.frame_rate,
        duration_s=header.duration_s,
        num_frames=header.num_frames,
        codec=header.codec,
        rotation=header.rotation,
        stream_index=header.stream_index,
        pixel_format=header.pixel_format,
        color_transfer=header.color_transfer,
        sample_aspect_ratio=header.sample_aspect_ratio,
    )
