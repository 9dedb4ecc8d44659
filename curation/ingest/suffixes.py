"""What a file is expected to hold, by the suffix of its name in any case."""

from __future__ import annotations

import posixpath

from curation.records import SourceKind

IMAGE_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
        ".jpeg", ".jpf", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif",
        ".tiff", ".webp",
    }
)  # fmt: skip
"""Still images that Pillow opens; `.heic` and `.heif` where pillow-heif is installed."""
VIDEO_SUFFIXES = frozenset(
    {
        ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".ivf", ".m2p", ".m2t",
        ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf",
        ".nut", ".ogm", ".ogv", ".ps", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
    }
)  # fmt: skip
"""Videos that FFmpeg's demuxers open."""


def kind_of(name: str) -> SourceKind | None:
    """What a file of this name should hold; None for files that are no media."""
    return kind_of_suffix(suffix_of(name))


def kind_of_suffix(suffix: str) -> SourceKind | None:
    """`kind_of` by the suffix in lower case."""
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


def suffix_of(name: str) -> str:
    """The suffix of a path in lower case, such as ".jpg"; "" where there is none."""
    return posixpath.splitext(name)[1].lower()
