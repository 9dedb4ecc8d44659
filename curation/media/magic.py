"""Tells pictures and videos from other bytes by how they begin."""

from __future__ import annotations

from curation.records import SourceKind

HEAD_BYTES = 512
"""How many bytes decide."""

_IMAGES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
)
_VIDEOS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF, WMV
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG video
    b"\x06\x0e+4\x02\x05\x01\x01",  # MXF
)
_IMAGE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
_MOVIE_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_BMP_HEADERS_BYTES = (12, 40, 52, 56, 64, 108, 124)
_TS_BYTES = 188


def media_kind(head: bytes) -> SourceKind | None:
    """What a file is that begins with `head`, `HEAD_BYTES` of it or all; None if no media known here."""
    if head.startswith(_IMAGES) or _is_image_by_fields(head):
        return "image"
    if head[4:8] in _MOVIE_BOXES:
        return "image" if head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS else "video"
    return "video" if head.startswith(_VIDEOS) or head[8:12] == b"AVI " or _is_transport(head) else None


def _is_image_by_fields(head: bytes) -> bool:
    """Formats whose first bytes alone are too short to tell: WebP, BMP, ICO, PPM."""
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[:2] == b"BM":
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS_BYTES
    if head[:4] == b"\0\0\x01\0":
        return len(head) >= 22 and 0 < head[4] < 64 and head[5] == 0 and head[9] == 0
    return head[:1] == b"P" and head[1:2] in (b"2", b"3", b"5", b"6") and head[2:3] in (b"\n", b" ", b"\r")


def _is_transport(head: bytes) -> bool:
    """MPEG transport streams: packets of 188 bytes, or of 192 with a time stamp before each."""
    return any(
        len(head) > start + step and head[start] == head[start + step] == ord("G")
        for start, step in ((0, _TS_BYTES), (4, _TS_BYTES + 4))
    )
