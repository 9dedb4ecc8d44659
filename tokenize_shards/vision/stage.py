"""The token stage: the frames of an image or a window in, a token grid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from curation.pipeline.models import STAND_IN, fetch
from curation.records import Sample, SampleKind
from curation.stage import Column, Location, Media, ModelRef, Resources, Setup, Stage, StageConfig, View
from curation.tokenize_shards.vision.arithmetic import check_precision
from curation.tokenize_shards.vision.sizes import Emu3Sizes
from curation.tokenize_shards.vision.tokenizer import (
    TEMPORAL_FACTOR,
    TOKENIZERS,
    Precision,
    VisionTokenizer,
    load_tokenizer,
)

MIN_AREA_PX = 64 * 64
MAX_AREA_PX = 2048 * 2048


class TokenConfig(StageConfig):
    """Settings of the vision tokenizer. Emu3: area 512 * 512 in pre-training, 720 * 720 later."""

    weights: Location
    """Emu3's vision tokenizer in transformers' format: hub name, folder, or `stand-in`."""
    revision: str | None = None
    """Revision of the hub name; its newest by default."""
    tokenizer: str = "emu3"
    """Kind of the tokenizer: `emu3`, or `module:function` for another of 4 x 8 x 8 and 32,768 codes."""
    precision: Precision = "fp32"
    """Of the encoder; codes are searched in float32 always. `fp32` gives the same codes on every machine but
    for ties. On NVIDIA GPUs from Ampere on, `tf32`, with which Emu3's own script ran, is about five times
    faster and moves about 2 % of the codes; `tf32x3`, three such products for one, is in between and moves
    0.2 %. `bf16` is ten times faster on a GPU and moves 16 % and more (docs/decisions.md)."""
    area: int | tuple[int, int] = 512 * 512
    """Pixels of a frame, about; its sides are what Emu3's own resizing gives, multiples of 8. A pair, for
    understanding data: smaller frames go up to the first, larger ones down to the second, others stay. A
    worker holds `max_frames` frames of a window at once, 3 bytes a pixel."""
    fps: Annotated[float, Field(gt=0, le=60)] = 4.0
    """Frames per second that are taken from a window."""
    max_frames: Annotated[int, Field(ge=4)] = 64
    """Most frames of a window, a multiple of 4."""

    @field_validator("area", mode="before")
    @classmethod
    def _is_area(cls, area: object) -> object:
        pair = tuple(area) if isinstance(area, (list, tuple)) else (area, area)
        if len(pair) != 2 or not all(_is_area_px(bound) for bound in pair) or pair[0] > pair[1]:
            raise ValueError(
                f"must be a number of pixels from {MIN_AREA_PX} to {MAX_AREA_PX}, or a pair of them, "
                f"[smallest, largest], not {area!r}"
            )
        return area if isinstance(area, int) else pair

    @field_validator("tokenizer")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in TOKENIZERS and ":" not in kind:
            raise ValueError(
                f"there is no tokenizer {kind!r}; known are {', '.join(TOKENIZERS)}, module:function"
            )
        return kind

    @model_validator(mode="after")
    def _is_whole(self) -> TokenConfig:
        if self.max_frames % TEMPORAL_FACTOR:
            raise ValueError("max_frames must be a multiple of 4")
        return self


class TokenStage(Stage[TokenConfig]):
    """Encodes pixels."""

    name = "tokens"
    produces = "codes"
    version = 2
    columns = {
        "codes": Column(
            pa.binary(),
            "Little-endian uint16, row-major [grid_t, grid_h, grid_w], each 0..32,767.",
            large=True,
        ),
        "grid_t": Column(
            pa.int32(),
            "Frames of the token grid: frames that were encoded / 4; 1 for an image.",
            exported=True,
        ),
        "grid_h": Column(pa.int32(), "Rows of the token grid: height in pixels / 8.", exported=True),
        "grid_w": Column(pa.int32(), "Columns of the token grid: width in pixels / 8.", exported=True),
        "fps": Column(pa.float32(), "Frames per second that were encoded; null for an image.", exported=True),
    }
    batch_size = 4
    Config = TokenConfig

    def view(self, kind: SampleKind) -> View:
        image = View(sizing=Emu3Sizes(self.config.area))
        if kind == "image":
            return image
        return replace(image, fps=self.config.fps, max_frames=self.config.max_frames)

    def resources(self) -> Resources:
        return Resources(gpu=True)

    def check_device(self, device: Literal["cpu", "cuda"]) -> None:
        if device == "cpu":  # what a GPU can is known where it is
            check_precision(self.config.precision, device)

    def models(self) -> Sequence[ModelRef]:
        is_stand_in = self.config.weights == STAND_IN
        return (
            ModelRef(
                "tokenizer",
                self.config.weights,
                self.config.revision,
                stand_in=is_stand_in,
                precision=self.config.precision,
            ),
        )

    def distributions(self) -> Sequence[str]:
        return ("torch", "transformers")

    def setup(self, setup: Setup) -> None:
        self._tokenizer = self.load(setup)

    def load(self, setup: Setup, *, decodes: bool = False) -> VisionTokenizer:
        """The tokenizer that the settings name, with its decoder if `decodes`."""
        ref = self.models()[0]
        folder = None if ref.stand_in else fetch(ref, setup.revisions["tokenizer"])
        config = self.config
        # Decoding is in float32 always, on machines that can't encode in TF32 too.
        precision = "fp32" if decodes else config.precision
        return load_tokenizer(folder, setup.device, precision, kind=config.tokenizer, decodes=decodes)

    def measure_settings(self) -> dict[str, Any]:
        """With what changed in bf16 alone: on a GPU, several steps are rounded together, not one by one."""
        fused = {"fused": True} if self.config.precision == "bf16" else {}
        return super().measure_settings() | fused

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        """Samples of one shape go to the tokenizer together."""
        frames = [
            item.pixels if sample.kind == "image" else whole_groups(item.pixels)
            for sample, item in zip(samples, media, strict=True)
        ]
        places: dict[tuple[int, ...], list[int]] = {}
        for place, item in enumerate(frames):
            places.setdefault(item.shape, []).append(place)
        rows: list[dict[str, Any]] = [{}] * len(samples)
        for group in places.values():
            grids = self._tokenizer.encode([frames[place] for place in group])
            for place, grid in zip(group, grids, strict=True):
                rows[place] = self._row(samples[place], grid)
        return rows

    def _row(self, sample: Sample, grid: NDArray[np.uint16]) -> dict[str, Any]:
        return {
            "codes": grid.astype("<u2").tobytes(),
            "grid_t": grid.shape[0],
            "grid_h": grid.shape[1],
            "grid_w": grid.shape[2],
            "fps": None if sample.kind == "image" else self.config.fps,
        }


def _is_area_px(number: object) -> bool:
    return isinstance(number, int) and MIN_AREA_PX <= number <= MAX_AREA_PX


def whole_groups(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Groups of four frames: what is over is dropped, a clip of fewer than four holds its last frame."""
    if len(frames) < TEMPORAL_FACTOR:
        return np.concatenate([frames, np.repeat(frames[-1:], TEMPORAL_FACTOR - len(frames), axis=0)])
    return frames[: len(frames) // TEMPORAL_FACTOR * TEMPORAL_FACTOR]
