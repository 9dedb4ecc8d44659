"""Drops clips with too little or too much motion, by dense optical flow as Emu3 does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation.errors import ConfigError, SampleError, UnsupportedMediaError
from curation.pipeline.models import STAND_IN, fetch
from curation.pipeline.precision import Precision, computing, stated
from curation.pipeline.weights import load_weights
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
        if name is None:
            return ()
        is_stand_in = name == STAND_IN
        precision = stated(RAFT_PRECISION)
        return (ModelRef("raft", name, sha256=digest, stand_in=is_stand_in, precision=precision),)

    def distributions(self) -> Sequence[str]:
        return () if self.config.method == "dis" else ("torch", "torchvision")

    def setup(self, setup: Setup) -> None:
        self._flow: _Flow
        if self.config.method == "dis":
            self._flow = DisFlow()
            return
        (ref,) = self.models()
        path = None if ref.stand_in else fetch(ref, setup.revisions["raft"])
        self._flow = RaftFlow(self.config.method, path, setup.device)

    def measure(
        self, samples: Sequence[Sample], media: Sequence[Media]
    ) -> list[dict[str, Any] | SampleError]:
        lengths_px = self._flow.lengths([item.pixels for item in media])
        return [self._row(item, lengths) for item, lengths in zip(media, lengths_px, strict=True)]

    def _row(self, media: Media, lengths_px: Sequence[float]) -> dict[str, Any] | SampleError:
        if not lengths_px:
            fps, number = self.config.fps, len(media.pixels)
            return UnsupportedMediaError(f"flow needs two frames at {fps:g} FPS, the clip has {number}")
        return {"flow_score": float(np.mean(lengths_px) / min(media.pixels.shape[1:3]))}


class _Flow(Protocol):
    def lengths(self, clips: Sequence[NDArray[np.uint8]]) -> list[list[float]]:
        """Of each clip, [T, H, W, 3]: mean lengths in pixels of the flow vectors of neighboring frames."""


class DisFlow:
    """OpenCV's DIS optical flow."""

    def __init__(self) -> None:
        import cv2

        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def lengths(self, clips: Sequence[NDArray[np.uint8]]) -> list[list[float]]:
        return [self._lengths(frames) for frames in clips]

    def _lengths(self, frames: NDArray[np.uint8]) -> list[float]:
        import cv2

        grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        vectors = [self._flow.calc(earlier, later, None) for earlier, later in pairwise(grays)]
        return [float(np.hypot(flow[..., 0], flow[..., 1]).mean()) for flow in vectors]


RAFT_PRECISION: Precision = "tf32"
"""6e-4 off IEEE's lengths, relative, on an H200."""
_PAIRS_AT_ONCE = 32
"""Frame pairs in a GPU's batch: on an H200 308 a second (large) and 610 (small); in eights 250 and 294."""
_CORRELATIONS_BYTES = 1 << 30
"""What a batch may take for the correlations of all places of one frame with all of the other."""


class RaftFlow:
    """torchvision's RAFT; one pair at a time on a CPU, where batches are no faster."""

    def __init__(
        self,
        method: str,
        weights: Path | None,
        device: str,
        *,
        precision: Precision = RAFT_PRECISION,
        batch_size: int | None = None,
    ) -> None:
        """`batch_size` is how many pairs are looked at together; None: what suits device and frames."""
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
                model.load_state_dict(load_weights(weights))
            except RuntimeError as error:
                raise ConfigError(f"{weights} holds no weights of torchvision's {method}") from error
        self._model = model.eval().to(device)
        self._device = device
        self._precision = precision
        self._batch_size = batch_size or (None if device == "cuda" else 1)

    def lengths(self, clips: Sequence[NDArray[np.uint8]]) -> list[list[float]]:
        found = [[0.0] * (len(frames) - 1) for frames in clips]
        for batch in self._batches(clips):
            earlier, later = (np.stack([clips[clip][at + step] for clip, at in batch]) for step in (0, 1))
            for (clip, at), length in zip(batch, self._mean_lengths(earlier, later), strict=True):
                found[clip][at] = length
        return found

    def _batches(self, clips: Sequence[NDArray[np.uint8]]) -> Iterator[Sequence[tuple[int, int]]]:
        """Pairs of frames of one size, by the numbers of the clip and of the earlier frame in it."""
        by_size: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for clip, frames in enumerate(clips):
            pairs = by_size.setdefault(frames.shape[1:3], [])
            pairs += [(clip, at) for at in range(len(frames) - 1)]
        for (height, width), pairs in by_size.items():
            at_once = self._batch_size or pairs_at_once(height, width)
            yield from (pairs[start : start + at_once] for start in range(0, len(pairs), at_once))

    def _mean_lengths(self, earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> list[float]:
        """One per pair, in pixels; of [N, H, W, 3] each."""
        import torch

        height, width = earlier.shape[1:3]
        with computing(self._precision, self._device):
            flow = self._model(self._on_device(earlier), self._on_device(later))[-1]
            lengths = torch.linalg.vector_norm(flow[..., :height, :width].float(), dim=1)
            means: list[float] = lengths.mean(dim=(1, 2)).tolist()
        return means

    def _on_device(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """As RAFT takes them: [N, 3, H, W], -1..1, padded."""
        import torch

        pixels = torch.from_numpy(frames)
        if self._device == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        return _padded(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)


def pairs_at_once(height: int, width: int) -> int:
    """Pairs of frames of this size in a GPU's batch: what fills it, and for large ones what fits.

    RAFT compares all places, one per 8x8 pixels, in float32, once and at a half, a quarter and an eighth of
    the resolution of one of the frames: that grows with the fourth power of the side.
    """
    places = -(-height // 8) * -(-width // 8)
    bytes_per_pair = 4 * places**2 * 85 // 64
    return max(1, min(_PAIRS_AT_ONCE, _CORRELATIONS_BYTES // bytes_per_pair))


def _padded(pixels: torch.Tensor) -> torch.Tensor:
    """Edges repeated to the right and below, up to what RAFT takes: multiples of 8, at least 128."""
    import torch

    height, width = pixels.shape[-2:]
    missing = [max(128, -(-side // 8) * 8) - side for side in (width, height)]
    return torch.nn.functional.pad(pixels, (0, missing[0], 0, missing[1]), mode="replicate")
