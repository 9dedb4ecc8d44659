"""Fills in a source's header fields, or the reason why it has none."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from curation.errors import ProbeError, SampleError
from curation.errors.isolation import isolated
from curation.media.decode import probe_video
from curation.media.file import MediaFile, rewound, size_of
from curation.media.image import MAX_PIXELS, probe_image
from curation.records import Source
from curation.storage.digest import digest_of


def probe(source: Source, file: MediaFile, max_pixels: int = MAX_PIXELS) -> Source:
    """`source` with its content hash and header fields; `error_type` and `error` where it has no header."""
    try:
        with isolated(ProbeError):
            source = _weighed(source, file)
            if source.kind == "image":
                return _probe_image(source, file, max_pixels)
            return _probe_video(source, file, max_pixels)
    except SampleError as error:
        return failed(source, error)


def failed(source: Source, error: SampleError) -> Source:
    """`source` as one that can't be used."""
    return replace(source, error_type=type(error).__name__, error=str(error))


def _weighed(source: Source, file: MediaFile) -> Source:
    """With size and hash of the bytes.

    Raises:
        ProbeError: they can't be read.
    """
    try:
        return replace(source, content_hash=_digest_of(file), size_bytes=size_of(file))
    except OSError as error:
        raise ProbeError(f"the file can't be read: {error.strerror or error}") from error


def _digest_of(file: MediaFile) -> str:
    if isinstance(file, Path):
        return digest_of(file)
    return hashlib.file_digest(rewound(file), "sha256").hexdigest()


def _probe_image(source: Source, file: MediaFile, max_pixels: int) -> Source:
    width, height, codec, rotation = probe_image(file, max_pixels)
    return replace(source, width=width, height=height, codec=codec, rotation=rotation)


def _probe_video(source: Source, file: MediaFile, max_pixels: int) -> Source:
    header = probe_video(file, max_pixels)
    return replace(
        source,
        width=header.width,
        height=header.height,
        frame_rate=header.frame_rate,
        duration_s=header.duration_s,
        num_frames=header.num_frames,
        codec=header.codec,
        rotation=header.rotation,
        mirrored=header.mirrored,
        interlaced=header.interlaced,
        stream_index=header.stream_index,
        pixel_format=header.pixel_format,
        color_transfer=header.color_transfer,
        sample_aspect_ratio=header.sample_aspect_ratio,
        num_discontinuities=header.num_discontinuities,
    )
