"""Drops clips with too little or too much motion, by dense optical flow as Emu3 does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation.errors import ConfigError, UnsupportedMediaError
from curation.pipeline.models import STAND_IN, fetch
from curation.records import Sample, SampleKind
from curation.stage import (
    Column,
    KeepMax,
    KeepMin,
    Location,
    Media,
    ModelRef,
    Resources,
    Setup,
    Stage,
    StageConfig,
    View,
)

if TYPE_CHECKING:
    import torch


class FlowConfig(StageConfig):
    """Settings of the motion filter. Emu3: 2 FPS, short side 256; its bounds are not published."""

    min_score: Annotated[float, KeepMin("flow_score"), Field(ge=0)] | None = 0.003
    """Least motion, in short sides per frame pair."""
    max_score: Annotated[float, KeepMax("flow_score"), Field(ge=0)] | None = 0.3
    """Most motion, in short sides per frame pair."""
    method: Literal["dis", "raft_small", "raft_large"] = "dis"
    """`dis`: OpenCV's, for CPUs, without weights; `raft_*`: torchvision's networks, for GPUs."""
    weights: Location | None = None
    """RAFT: torchvision's weights as a file or URL, or `stand-in` for an untrained network."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """sha256 that the weights must have; required for a URL."""
    fps: Annotated[float, Field(gt=0)] = 2.0
    """Frames per second between which flow is measured."""
    short_side: Annotated[int, Field(ge=32)] = 256
    """Short side in pixels of those frames."""

    @model_validator(mode="after")
    def _has_weights(self) -> FlowConfig:
        if (self.method == "dis") != (self.weights is None):
            raise ValueError("weights belong to RAFT, and RAFT needs them")
        return self


class FlowStage(Stage[FlowConfig]):
    """Measures motion with dense optical flow. Pairs never straddle a cut, since clips don't."""

    name = "flow"
    kinds = frozenset({"clip"})
    version = 2
    columns = {
        "flow_score": Column(
            pa.float32(),
            "Mean over frame pairs of (mean length of the flow vectors / short side); 0 and up, 1 when the "
            "picture moves by its own short side from frame to frame.",
            exported=True,
        ),
    }
    Config = FlowConfig

    def view(self, kind: SampleKind) -> View:
        return View(fps=self.config.fps, short_side=self.config.short_side)

    def resources(self) -> Resources:
        return Resources(gpu=self.config.method != "dis")

    def models(self) -> Sequence[ModelRef]:
        name, digest = self.config.weights, self.config.weights_sha256
        return () if name is None else (ModelRef("raft", name, sha256=digest, stand_in=name == STAND_IN),)

    def distributions(self) -> Sequence[str]:
        return () if self.config.method == "dis" else ("torch", "torchvision")

    def setup(self, setup: Setup) -> None:
        self._flow: _Flow
        if self.config.method == "dis":
            self._flow = _DisFlow()
            return
        (ref,) = self.models()
        path = None if ref.stand_in else fetch(ref, setup.revisions["raft"])
        self._flow = _RaftFlow(self.config.method, path, setup.device)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [{"flow_score": self._score(item.pixels)} for item in media]

    def _score(self, frames: NDArray[np.uint8]) -> float:
        if len(frames) < 2:
            fps = self.config.fps
            raise UnsupportedMediaError(f"flow needs two frames at {fps:g} FPS, the clip has {len(frames)}")
        short_side = min(frames.shape[1:3])
        return float(np.mean(self._flow.lengths(frames)) / short_side)


class _Flow(Protocol):
    def lengths(self, frames: NDArray[np.uint8]) -> list[float]:
        """Mean length in pixels of the flow vectors of each pair of neighbors in [T, H, W, 3] frames."""


class _DisFlow:
    """OpenCV's DIS optical flow."""

    def __init__(self) -> None:
        import cv2

        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def lengths(self, frames: NDArray[np.uint8]) -> list[float]:
        import cv2

        grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        vectors = [self._flow.calc(earlier, later, None) for earlier, later in pairwise(grays)]
        return [float(np.hypot(flow[..., 0], flow[..., 1]).mean()) for flow in vectors]


class _RaftFlow:
    """torchvision's RAFT; one pair at a time on a CPU, where batches are no faster."""

    def __init__(self, method: str, weights: Path | None, device: str) -> None:
        import torch
        from torchvision.models import optical_flow

        build = getattr(optical_flow, method)
        if weights is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = build(weights=None, progress=False)
        else:
            model = build(weights=None, progress=False)
            try:
                model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
            except RuntimeError as error:
                raise ConfigError(f"{weights} holds no weights of torchvision's {method}") from error
        self._model = model.eval().to(device)
        self._device = device
        self._batch_size = 8 if device == "cuda" else 1

    def lengths(self, frames: NDArray[np.uint8]) -> list[float]:
        import torch

        height, width = frames.shape[1:3]
        pixels = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)
        if self._device == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        padded = _padded(pixels.float() / 127.5 - 1)
        found = []
        for start in range(0, len(frames) - 1, self._batch_size):
            stop = min(start + self._batch_size, len(frames) - 1)
            with torch.inference_mode():
                flow = self._model(padded[start:stop], padded[start + 1 : stop + 1])[-1]
            found.append(torch.linalg.vector_norm(flow[..., :height, :width].float(), dim=1).mean(dim=(1, 2)))
        lengths: list[float] = torch.cat(found).tolist()
        return lengths


def _padded(pixels: torch.Tensor) -> torch.Tensor:
    """Edges repeated to the right and below, up to what RAFT takes: multiples of 8, at least 128."""
    import torch

    height, width = pixels.shape[-2:]
    missing = [max(128, -(-side // 8) * 8) - side for side in (width, height)]
    return torch.nn.functional.pad(pixels, (0, missing[0], 0, missing[1]), mode="replicate")
