"""Splits videos into clips at cuts and fades, with PySceneDetect's own detectors.

The detectors get the frames of the one pass over the source, scaled as PySceneDetect scales them:
cuts depend on the resize kernel (bilinear without antialiasing).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curation.media.frame import Frame
from curation.records import SampleKind, Source
from curation.stage import CutFinder, KeepMin, Setup, Span, Splitter, StageConfig, View

_TIME_BASE = Fraction(1, 1_000_000)


class ScenesConfig(StageConfig):
    """Settings of the splitter. Emu3 uses PySceneDetect's content and threshold detectors."""

    min_clip_s: Annotated[float, KeepMin("duration_s"), Field(ge=0)] | None = 1.0
    """Least length of a clip in seconds."""
    content_threshold: Annotated[float, Field(gt=0, le=255)] | None = 27.0
    """ContentDetector: a cut where the mean change of hue, saturation and luma exceeds this."""
    fade_threshold: Annotated[int, Field(ge=0, le=255)] | None = 12
    """ThresholdDetector: a cut in the middle of a fade through frames darker than this."""
    min_scene_frames: Annotated[int, Field(ge=1)] = 15
    """Cuts that are closer together than this many frames are merged."""
    detect_side: Annotated[int, Field(ge=64)] = 256
    """Long side in pixels of the frames that the detectors see."""


class ScenesSplitter(Splitter[ScenesConfig]):
    """Finds the clips of a video.

    Columns:
        source_id, kind: The video, and "clip".
        start_s, end_s: Presentation times in seconds; the end is the start of the next clip.
        duration_s: end_s - start_s.
        start_frame, end_frame: Numbers of frames in presentation order, end exclusive.
    """

    name = "scenes"
    Config = ScenesConfig

    def view(self, kind: SampleKind) -> View | None:
        return None

    def setup(self, setup: Setup) -> None:
        import cv2

        cv2.setNumThreads(1)

    def start(self, source: Source) -> CutFinder:
        return _CutFinder(self.config, source)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is remembered of a frame that may become a cut.

    `number` is its time at the average frame rate, which is how the detectors count: at a variable
    rate two frames may share one.
    """

    index: int
    ticks: int
    number: int
    pts_s: float


class _CutFinder(CutFinder):
    def __init__(self, config: ScenesConfig, source: Source) -> None:
        self._detectors = _detectors(config)
        self._rate = source.frame_rate or Fraction(25)
        self._detect_side = config.detect_side
        self._lag = config.min_scene_frames + 1
        self._seen: list[_Seen] = []
        self._cuts: set[_Seen] = set()
        self._start: _Seen | None = None
        self._last: _Seen | None = None

    def push(self, frame: Frame) -> Iterator[Span]:
        from scenedetect import FrameTimecode
        from scenedetect.common import Timecode

        ticks = round(frame.pts_s / _TIME_BASE)
        timecode = FrameTimecode(Timecode(pts=ticks, time_base=_TIME_BASE), self._rate)
        seen = _Seen(frame.index, ticks, timecode.frame_num, frame.pts_s)
        if self._start is None:
            self._start = seen
        self._seen.append(seen)
        self._last = seen
        self._timecode = timecode
        small = self._scaled(frame.pixels)
        for detector in self._detectors:
            self._cuts |= self._frames_of(detector.process_frame(timecode, small))
        yield from self._settled(self._settled_until(seen.number))

    def finish(self, end_s: float) -> Iterator[Span]:
        for detector in self._detectors:
            self._cuts |= self._frames_of(detector.post_process(self._timecode))
        yield from self._settled(None)
        if self._start is not None and self._last is not None:
            yield Span(
                start_s=self._start.pts_s,
                end_s=end_s,
                start_frame=self._start.index,
                end_frame=self._last.index + 1,
            )

    def _scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """BGR, scaled down like SceneManager does."""
        import cv2

        height, width = pixels.shape[:2]
        factor = max(height, width) / self._detect_side
        if factor > 1:
            size = (max(1, round(width / factor)), max(1, round(height / factor)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(pixels[..., ::-1])

    def _frames_of(self, cuts: Sequence[Any]) -> set[_Seen]:
        """The first frames of new scenes: a content cut is a frame's own time, a fade's only a number."""
        frames = set()
        for cut in cuts:
            is_exact = cut.time_base == _TIME_BASE
            found = (
                seen
                for seen in self._seen
                if (seen.ticks >= cut.pts if is_exact else seen.number >= cut.frame_num)
            )
            frames |= set(itertools.islice(found, 1))
        return frames

    def _settled_until(self, number: int) -> int:
        """No detector will report a cut before this frame number any more."""
        bound = number - self._lag
        for detector in self._detectors:
            fade = getattr(detector, "last_fade", None)
            if fade and fade.get("type") == "out" and fade.get("frame") is not None:
                bound = min(bound, _frame_number(fade["frame"]))
        return bound

    def _settled(self, until: int | None) -> Iterator[Span]:
        """Spans up to cuts before `until` (None: all cuts), in order."""
        due = {cut for cut in self._cuts if until is None or cut.number < until}
        self._cuts -= due
        for frame in sorted(due, key=lambda cut: cut.index):
            if self._start is None or frame.index <= self._start.index:
                continue
            yield Span(
                start_s=self._start.pts_s,
                end_s=frame.pts_s,
                start_frame=self._start.index,
                end_frame=frame.index,
            )
            self._start = frame
        if until is not None:
            self._seen = [seen for seen in self._seen if seen.number >= until - 1]


def _frame_number(frame: Any) -> int:
    return int(getattr(frame, "frame_num", frame))


def _detectors(config: ScenesConfig) -> Sequence[Any]:
    from scenedetect import ContentDetector, ThresholdDetector

    detectors = []
    if config.content_threshold is not None:
        detectors.append(
            ContentDetector(threshold=config.content_threshold, min_scene_len=config.min_scene_frames)
        )
    if config.fade_threshold is not None:
        detectors.append(
            ThresholdDetector(threshold=config.fade_threshold, min_scene_len=config.min_scene_frames)
        )
    return detectors
