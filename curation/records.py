"""What is passed around: sources, samples, rows, outcomes. Frozen, without behavior."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any, Literal

SourceKind = Literal["image", "video", "container"]
SampleKind = Literal["image", "clip"]
MetadataValue = str | int | float | bool | list[str]
"""A value that came with a source; a list holds several texts of one name."""

HDR_TRANSFERS = frozenset({"smpte2084", "arib-std-b67"})
"""FFmpeg's names of PQ and HLG."""
ID_LENGTH = 20
"""Hex digits of an id: 80 bits, so 1e9 samples collide with probability below 1e-6."""


_BETWEEN = "\x1f"
"""Stands between the parts of what is hashed."""
_WHOLE = f"{_BETWEEN}0{_BETWEEN}0"
"""Begin and end of an image."""


def stable_id(*parts: object) -> str:
    """An id that is a pure function of `parts`: the same on every machine and in every run."""
    return hashlib.sha256(_BETWEEN.join(map(str, parts)).encode()).hexdigest()[:ID_LENGTH]


def image_ids(source_ids: Iterable[str]) -> list[str]:
    """The ids of the one sample of each image source: `stable_id(source_id, 0, 0)`, in half the time."""
    return [hashlib.sha256((name + _WHOLE).encode()).hexdigest()[:ID_LENGTH] for name in source_ids]


class Outcome(StrEnum):
    """How a source or a sample ends. Failed is not rejected: nothing is known about a failed sample.

    Gone is a source that was measured and is in the inputs no longer: it counts nowhere until it returns.
    """

    KEPT = "kept"
    REJECTED = "rejected"
    FAILED = "failed"
    PENDING = "pending"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One input file, or part of a container file, as found, and what its header says.

    A source of kind `container` is a tar or Parquet file that could not be listed to its end, and always
    failed. `etag` changes with the file; of a part it also says where in the container it begins.

    `width` and `height` are pixels after rotation and with square pixels; `frame_rate` is the average
    rate in frames per second, exact. Where a header names no believable rate or duration, both and
    `num_frames` come from the packets' own times. `num_discontinuities` says how often the clock of a
    video jumps; such a video's times, rate and duration are those of its `Timeline`. `color_transfer` is
    FFmpeg's name: `smpte2084` (PQ) and `arib-std-b67` (HLG) are HDR. Pictures are mirrored left to right
    if `mirrored`, then turned clockwise by `rotation` degrees; of an `interlaced` video the first frame or
    the header says so. `metadata` is what came with the file under its own names: a caption, a licence,
    scores; `metadata_etag` changes with the sidecars and lists that it was put together from.
    `content_hash` is the sha256 of the file's bytes, in hex; None where they could not be read,
    or the source was probed before hashes were.
    """

    source_id: str
    uri: str
    kind: SourceKind
    size_bytes: int
    etag: str
    width: int | None = None
    height: int | None = None
    frame_rate: Fraction | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    codec: str | None = None
    rotation: int | None = None
    mirrored: bool | None = None
    interlaced: bool | None = None
    stream_index: int | None = None
    pixel_format: str | None = None
    color_transfer: str | None = None
    sample_aspect_ratio: str | None = None
    num_discontinuities: int | None = None
    content_hash: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict, hash=False)
    metadata_etag: str | None = None
    error_type: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the source could be probed."""
        return self.error_type is None

    @property
    def clock_jumps(self) -> bool:
        """Whether a video has discontinuities, so that no position in it can be sought."""
        return bool(self.num_discontinuities)

    @property
    def is_hdr(self) -> bool:
        """Whether the first frame says that its transfer is PQ or HLG."""
        return self.color_transfer in HDR_TRANSFERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An image, or the span [start_s, end_s) of a video: the unit that is kept or not.

    Seconds are presentation times from the start of the source. A caption window of a long clip is
    a sample too, with the clip as its `parent_id`.
    """

    sample_id: str
    source_id: str
    kind: SampleKind
    start_s: float = 0.0
    end_s: float = 0.0
    parent_id: str | None = None

    @property
    def duration_s(self) -> float:
        """Length of the span in seconds; 0 for an image."""
        return self.end_s - self.start_s

    @staticmethod
    def of_image(source: Source) -> Sample:
        """The one sample of an image source."""
        (sample_id,) = image_ids([source.source_id])
        return Sample(sample_id=sample_id, source_id=source.source_id, kind="image")

    @staticmethod
    def of_span(source_id: str, start_s: float, end_s: float, parent_id: str | None = None) -> Sample:
        """A clip, or with `parent_id` a window of one. Ids depend on microseconds, not on float noise."""
        key = (round(start_s * 1e6), round(end_s * 1e6))
        return Sample(
            sample_id=stable_id(source_id, *key),
            source_id=source_id,
            kind="clip",
            start_s=start_s,
            end_s=end_s,
            parent_id=parent_id,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One sample as measured by one stage: all of the stage's columns, or the error that prevented them."""

    sample_id: str
    values: Mapping[str, Any]
    error_type: str | None = None
    error: str | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the measurement succeeded."""
        return self.error_type is None
