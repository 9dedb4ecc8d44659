"""Settings of the splitter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from curation.pipeline.precision import Precision
from curation.stage import KeepMin, StageConfig

TRANSNET_PRECISION: Precision = "tf32"


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
