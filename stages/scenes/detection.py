"""PySceneDetect's detectors, fed with every frame or with those where something may have changed.

What the detectors compare are two numbers per frame: its change from the frame before, and its mean
level. These frame_metrics are taken once, kept if a video is worked on in parts, and replayed over the
whole of it: the detectors then see what they would have seen in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode, ThresholdDetector
from scenedetect.common import Timecode

from curation.media.sampling import step_at
from curation.stages.scenes.transnet import WINDOWS_ELSEWHERE, TransNetDetector

if TYPE_CHECKING:
    from curation.media.frame import Frame
    from curation.splitter import Infer
    from curation.stages.scenes.settings import ScenesConfig

TIME_BASE = Fraction(1, 1_000_000)
_TICK_S = float(TIME_BASE)
_LONG_SIDE = 256
_MIN_FADE_S = "0.1s"
"""Shorter dark spells are no fades; the default of PySceneDetect's command line."""
_DIM = 2
"""Samples below so many times the fade threshold are looked at more closely."""
_ADAPTIVE_WINDOW = 3
"""Frames by which AdaptiveDetector lags behind, and one for good measure."""


@dataclass(slots=True)
class FrameMetrics:
    """What was read off one frame; the numbers are None if the detectors did not see it.

    Attributes:
        pts_s: Presentation time in seconds.
        change: Mean change of hue, saturation and luma since the frame that the detectors saw before, 0..255.
        level: Mean of all channels, 0..255.
    """

    pts_s: float
    change: float | None = None
    level: float | None = None


class _ScoredContent(ContentDetector):  # type: ignore[misc]
    """ContentDetector on changes that have been measured already."""

    def _calculate_frame_score(self, timecode: Any, frame_img: Any) -> float:
        return float(frame_img)


class _ScoredAdaptive(AdaptiveDetector):  # type: ignore[misc]
    """AdaptiveDetector on changes that have been measured already."""

    def _calculate_frame_score(self, timecode: Any, frame_img: Any) -> float:
        return float(frame_img)


class _Change:
    """How much a picture differs from the one before: the frame score of PySceneDetect's ContentDetector.

    Its own way to this number computes it in 32-bit numpy arrays, at three times the cost, and a
    StatsManager also computes edges. The sums are of whole numbers, so both give the same to the last bit.
    """

    def __init__(self) -> None:
        self._before: Sequence[NDArray[np.uint8]] | None = None

    def since_last(self, hsv: Sequence[NDArray[np.uint8]]) -> float:
        before, self._before = self._before, hsv
        if before is None:
            return 0.0
        distances = [
            cv2.norm(plane, other, cv2.NORM_L1) / plane.size for plane, other in zip(hsv, before, strict=True)
        ]
        return sum(distances) / len(distances)


class _Seen:
    """A frame at the size that the detectors see: [H, W, 3] uint8 RGB."""

    def __init__(self, small: NDArray[np.uint8]) -> None:
        self.small = small

    @cached_property
    def hsv(self) -> Sequence[NDArray[np.uint8]]:
        """Its hue, saturation and value, [H, W] each."""
        planes: Sequence[NDArray[np.uint8]] = cv2.split(cv2.cvtColor(self.small, cv2.COLOR_RGB2HSV))
        return planes

    @cached_property
    def level(self) -> float:
        """Mean of all channels, 0..255: the exact sum by number, as numpy's mean, which is slower."""
        return float(sum(cv2.sumElems(self.small)) / self.small.size)


class Detection:
    """The detectors that a configuration asks for, on the frames of one video."""

    def __init__(
        self, config: ScenesConfig, rate: Fraction, infer: Infer, *, is_elsewhere: bool = False
    ) -> None:
        """`infer` is `Splitter.infer`, maybe of another process."""
        cv2.setNumThreads(1)
        self._config = config
        self._rate = rate
        # In frames, as PySceneDetect's command line reckons.
        merged = FrameTimecode(float(config.min_scene_s), rate).frame_num
        self._on_change: list[Any] = []
        if config.content_threshold is not None:
            self._on_change.append(_ScoredContent(config.content_threshold, min_scene_len=merged))
        if config.adaptive_threshold is not None:
            self._on_change.append(_ScoredAdaptive(config.adaptive_threshold, min_scene_len=merged))
        self._on_level: list[Any] = []
        if config.fade_threshold is not None:
            self._on_level.append(
                ThresholdDetector(
                    config.fade_threshold,
                    min_scene_len=merged,
                    add_final_scene=True,
                    min_out_length=FrameTimecode(_MIN_FADE_S, rate),
                )
            )
        self._on_pixels: list[TransNetDetector] = []
        if config.transnet_threshold is not None:
            windows = WINDOWS_ELSEWHERE if is_elsewhere else 1
            self._on_pixels.append(TransNetDetector(infer, config.transnet_threshold, merged, windows))
        self._lag = merged + _ADAPTIVE_WINDOW
        self._fed = 0
        self._last: Any = None
        self._change = _Change()
        self._between: list[tuple[Any, Frame, FrameMetrics]] = []
        self._sample = _Sampling(config)

    def timecode(self, pts_s: float) -> Any:
        """A time as PySceneDetect has it."""
        return FrameTimecode(Timecode(pts=round(pts_s / _TICK_S), time_base=TIME_BASE), self._rate)

    def push(self, timecode: Any, frame: Frame, metrics: FrameMetrics) -> list[Any]:
        """Cuts that are known now; the metrics of this and earlier frames are filled in."""
        self._last = timecode
        if self._config.sample_fps == "native":
            return self._feed(timecode, self._seen(frame), metrics)
        self._between.append((timecode, frame, metrics))
        return self._look() if self._sample.is_due(frame.pts_s) else []

    def replay(self, timecode: Any, metrics: FrameMetrics) -> list[Any]:
        """Cuts that are known now, from metrics that were taken earlier."""
        self._last = timecode
        return self._decide(timecode, metrics)

    def finish(self) -> list[Any]:
        """The cuts that only the end brings out."""
        cuts = self._look() if self._between else []
        for detector in (*self._on_change, *self._on_level, *self._on_pixels):
            cuts += detector.post_process(self._last)
        return cuts

    def settled_before(self) -> int:
        """No cut will be found before this frame number any more."""
        bound: int = self._fed - self._lag
        for detector in self._on_level:
            fade = detector.last_fade
            if fade["type"] == "out" and fade["frame"] is not None:
                bound = min(bound, int(fade["frame"].frame_num))
        for detector in self._on_pixels:
            bound = min(bound, detector.open_from)
        return bound

    def _look(self) -> list[Any]:
        """Look at the newest frame; if it differs from the last sample, at those between them first."""
        *between, (timecode, frame, metrics) = self._between
        self._between = []
        seen = self._seen(frame)
        cuts = []
        if self._sample.has_changed(seen) and self._config.refine:
            for earlier, passed, its_reading in between:
                cuts += self._feed(earlier, self._seen(passed), its_reading)
        return cuts + self._feed(timecode, seen, metrics)

    def _feed(self, timecode: Any, seen: _Seen, metrics: FrameMetrics) -> list[Any]:
        metrics.change = self._change.since_last(seen.hsv) if self._on_change else 0.0
        metrics.level = seen.level if self._on_level else 0.0
        cuts = [cut for detector in self._on_pixels for cut in detector.process_frame(timecode, seen.small)]
        return cuts + self._decide(timecode, metrics)

    def _decide(self, timecode: Any, metrics: FrameMetrics) -> list[Any]:
        if metrics.change is None or metrics.level is None:
            return []
        self._fed = timecode.frame_num
        change, level = np.array(metrics.change), np.array(metrics.level)
        return [
            *(cut for detector in self._on_change for cut in detector.process_frame(timecode, change)),
            *(cut for detector in self._on_level for cut in detector.process_frame(timecode, level)),
        ]

    def _seen(self, frame: Frame) -> _Seen:
        """Scaled down with the kernel that PySceneDetect uses: cuts depend on it."""
        pixels = frame.pixels
        height, width = pixels.shape[:2]
        if self._config.short_side is None:
            factor = max(height, width) / _LONG_SIDE
        else:
            factor = min(height, width) / self._config.short_side
        if factor > 1:
            size = (max(1, round(width / factor)), max(1, round(height / factor)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        return _Seen(pixels)


class _Sampling:
    """Which frames are looked at first, and whether those before them must be looked at too.

    The first frame at or after each multiple of 1 / `sample_fps` seconds is a sample, wherever
    decoding began.
    """

    def __init__(self, config: ScenesConfig) -> None:
        self._fps = 0.0 if config.sample_fps == "native" else config.sample_fps
        self._content_threshold = config.content_threshold or math.inf
        self._fade_threshold = config.fade_threshold or 0
        self._change = _Change()
        self._step: int | None = None
        self._was_dim = False

    def is_due(self, pts_s: float) -> bool:
        step = step_at(pts_s, self._fps)
        is_new, self._step = step != self._step, step
        return is_new

    def has_changed(self, seen: _Seen) -> bool:
        """Whether something between this sample and the one before may be a cut or the edge of a fade.

        A dark spell may be shorter than the time between samples: dim ones are looked at closely.
        """
        is_other = self._change.since_last(seen.hsv) >= self._content_threshold
        was_dim, self._was_dim = self._was_dim, seen.level < _DIM * self._fade_threshold
        return is_other or was_dim or self._was_dim
