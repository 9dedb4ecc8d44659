"""Drops clips with too little or too much motion, by dense optical flow as Emu3 does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from curation.errors import UnsupportedMediaError
from curation.records import Sample, SampleKind
from curation.stage import KeepMax, KeepMin, Media, Setup, Stage, StageConfig, View


class FlowConfig(StageConfig):
    """Settings of the motion filter. Emu3: 2 FPS, short side 256; its bounds are not published."""

    min_score: Annotated[float, KeepMin("flow_score"), Field(ge=0)] | None = 0.003
    """Least motion, in short sides per frame pair."""
    max_score: Annotated[float, KeepMax("flow_score"), Field(ge=0)] | None = 0.3
    """Most motion, in short sides per frame pair."""
    fps: Annotated[float, Field(gt=0)] = 2.0
    """Frames per second between which flow is measured."""
    short_side: Annotated[int, Field(ge=32)] = 256
    """Short side in pixels of those frames."""


class FlowStage(Stage[FlowConfig]):
    """Measures motion with OpenCV's DIS optical flow.

    Columns:
        flow_score: Mean over frame pairs of (mean length of the flow vectors / short side); 0 and up,
            1 when the picture moves by its own short side from frame to frame.
    """

    name = "flow"
    columns = {"flow_score": pa.float32()}
    Config = FlowConfig

    def view(self, kind: SampleKind) -> View:
        return View(fps=self.config.fps, short_side=self.config.short_side)

    def setup(self, setup: Setup) -> None:
        import cv2

        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [{"flow_score": self._score(item.pixels)} for item in media]

    def _score(self, frames: NDArray[np.uint8]) -> float:
        import cv2

        if len(frames) < 2:
            raise UnsupportedMediaError(
                f"flow needs two frames at {self.config.fps:g} FPS, the clip has {len(frames)}"
            )
        grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        lengths = []
        for earlier, later in pairwise(grays):
            vectors = self._flow.calc(earlier, later, None)
            lengths.append(np.hypot(vectors[..., 0], vectors[..., 1]).mean())
        short_side = min(frames.shape[1:3])
        return float(np.mean(lengths) / short_side)
