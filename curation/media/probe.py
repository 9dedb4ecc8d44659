"""Fills in a source's header fields, or the reason why it has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from curation.errors import ProbeError, SampleError
from curation.errors.isolation import isolated
from curation.media.decode import probe_video
from curation.media.file import MediaFile, size_of
from curation.media.image import MAX_PIXELS, probe_image
from curation.records import Source
from curation.storage.digest import HashedFile, digest_of


def probe(source: Source, file: MediaFile, max_pixels: int = MAX_PIXELS) -> Source:
    """`source` with its content hash and header fields; `error_type` and `error` where it has no header.

    A file that is read in ranges is hashed while its header is read, so that it is fetched once.
    """
    read = file if isinstance(file, Path | HashedFile) else HashedFile(file)
    try:
        with isolated(ProbeError):
            probed = _with_header(source, read, max_pixels)
    except SampleError as error:
        probed = failed(source, error)
    try:
        with isolated(ProbeError):
            return _weighed(probed, read)
    except SampleError as error:
        return failed(source, error)


def _with_header(source: Source, file: MediaFile, max_pixels: int) -> Source:
    if source.kind == "image":
        return _probe_image(source, file, max_pixels)
    return _probe_video(source, file, max_pixels)


def failed(source: Source, error: SampleError) -> Source:
    """`source` as one that can't be used."""
    return replace(source, error_type=type(error).__name__, error=str(error))


def _weighed(source: Source, file: Path | HashedFile) -> Source:
    """With size and hash of the bytes.

    Raises:
        ProbeError: they can't be read.
    """
    try:
        digest = digest_of(file) if isinstance(file, Path) else file.digest()
        return replace(source, content_hash=digest, size_bytes=size_of(file))
    except OSError as error:
        raise ProbeError(f"the file can't be read: {error.strerror or error}") from error


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
