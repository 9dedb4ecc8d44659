"""Drops pictures that people would not like to look at, by the LAION aesthetic predictor.

CLIP ViT-L/14 with QuickGELU (without it scores are off by 0.6) embeds a frame; a small head on the
L2-normalised embedding gives a score of about 1..10. The embedding is kept for stages that look for
similar samples. A score that came with the source (LAION-aesthetics, DataComp) can be taken instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from curation.errors import ConfigError, UnsupportedMediaError
from curation.pipeline.models import STAND_IN, fetch
from curation.pipeline.precision import DEFAULT, Precision, stated
from curation.pipeline.weights import load_weights
from curation.records import Sample, SampleKind, Source
from curation.stage import (
    Column,
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
from curation.stages.clip.squares import STAND_IN_PX, known_architecture, square_px, squares
from curation.stages.clip.tower import ImageTower, load_clip, stand_in_clip

if TYPE_CHECKING:
    import torch

_OPEN_CLIP_FILE = "open_clip_model.safetensors"
_LAION_HEAD = (
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth"
)
_LAION_HEAD_SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"


SHA256 = "^[0-9a-f]{64}$"


class AestheticConfig(StageConfig):
    """Settings of the aesthetic filter. Emu3: at least 5.5 for images, at least 5 for clips."""

    min_score: Annotated[float, KeepMin("aesthetic_score"), Field(ge=0, le=10)] | None = 5.5
    """Least score, about 1..10."""
    model: Annotated[str, AfterValidator(known_architecture)] = "ViT-L-14-quickgelu"
    """open_clip architecture."""
    weights: Location = "timm/vit_large_patch14_clip_224.openai"
    """Weights of CLIP: hub name, file, URL, or `stand-in` for a tiny untrained model."""
    revision: str | None = None
    """Revision of the hub name; its newest by default."""
    weights_sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    """sha256 that the file of CLIP's weights must have; a URL needs it."""
    head: Location = _LAION_HEAD
    """LAION head, .pth: hub name, file, URL, or `stand-in` with stand-in weights."""
    head_file: str | None = None
    """Name of the head's file, where `head` is a hub name or a folder."""
    head_sha256: Annotated[str, Field(pattern=SHA256)] | None = _LAION_HEAD_SHA256
    """sha256 that the head's file must have; null does not check it, but a URL needs it."""
    num_frames: Annotated[int, Field(ge=1, le=64)] = 3
    """Frames of a clip, at the centers of equal parts: 1/6, 1/2, 5/6 for three."""
    precision: Precision = DEFAULT
    """On a GPU `fp32`, `tf32` or `bf16`, each faster than the one before it; on a CPU `tf32` is `fp32`."""
    from_column: Annotated[str, Field(min_length=1)] | None = None
    """Take the score that came with the source under this name, run no model; without it a sample fails."""

    @model_validator(mode="after")
    def _is_consistent(self) -> AestheticConfig:
        if (self.weights == STAND_IN) != (self.head == STAND_IN):
            raise ValueError("weights and head must both be stand-ins or both be real")
        return self


class AestheticStage(Stage[AestheticConfig]):
    """Scores an image, or a clip by its worst frame."""

    name = "aesthetic"
    columns = {
        "aesthetic_score": Column(
            pa.float32(),
            "The least of the frames' scores, about 1..10.",
            exported=True,
        ),
        "aesthetic_scores": Column(pa.list_(pa.float32()), "One score per frame, about 1..10."),
        "embedding": Column(
            pa.binary(),
            "CLIP's L2-normalised embedding, little-endian float16; of a clip, the normalised mean over its "
            "frames. Null where the score came with the source.",
            large=True,
        ),
    }
    batch_size = 64
    Config = AestheticConfig

    def view(self, kind: SampleKind) -> View | None:
        if self.config.from_column is not None:
            return None
        return View() if kind == "image" else View(count=self.config.num_frames, short_side=256)

    def resources(self) -> Resources:
        return Resources(gpu=bool(self.models()))

    def models(self) -> Sequence[ModelRef]:
        config = self.config
        if config.from_column is not None:
            return ()
        is_stand_in = config.weights == STAND_IN
        clip = ModelRef(
            "clip",
            config.weights,
            config.revision,
            file=_OPEN_CLIP_FILE,
            sha256=config.weights_sha256,
            stand_in=is_stand_in,
            precision=stated(config.precision),
        )
        head = ModelRef(
            "head", config.head, file=config.head_file, sha256=config.head_sha256, stand_in=is_stand_in
        )
        return clip, head

    def measure_settings(self) -> dict[str, Any]:
        """A score that came with the source depends on its name alone, a measured one not on any name.

        Rows of the default precision are filed with those from before it was a setting.
        """
        column = self.config.from_column
        if column is not None:
            return {"from_column": column}
        left_out = {"from_column"} | ({"precision"} if self.config.precision == DEFAULT else set())
        return {name: value for name, value in super().measure_settings().items() if name not in left_out}

    @classmethod
    def placement_settings(cls) -> set[str]:
        return {"weights_sha256", "head_sha256", "head_file"}

    def distributions(self) -> Sequence[str]:
        return ("open_clip_torch", "torch") if self.models() else ()

    def setup(self, setup: Setup) -> None:
        if self.config.from_column is not None:
            return
        if self.config.weights == STAND_IN:
            clip, head = _stand_ins()
        else:
            files = {ref.role: fetch(ref, setup.revisions[ref.role]) for ref in self.models()}
            clip, head = load_clip(self.config.model, files["clip"]), load_head(files["head"])
        self._tower = ImageTower(clip, setup.device, self.config.precision)
        self._head = head.eval()  # on the CPU, where float32 is exact and the embeddings go anyway

    def prepare(self, media: Media) -> Media:
        if self.config.from_column is not None:
            return media
        side = STAND_IN_PX if self.config.weights == STAND_IN else square_px(self.config.model)
        return replace(media, pixels=squares(media.pixels, side))

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if self.config.from_column is not None:
            return [_carried_row(item.source, self.config.from_column) for item in media]
        embeddings = self._tower.embed(np.concatenate([item.pixels for item in media]))
        scores = _scores(self._head, embeddings)
        rows, start = [], 0
        for item in media:
            part = slice(start, start + len(item.pixels))
            start = part.stop
            mean = embeddings[part].mean(axis=0, dtype=np.float64)
            embedding = (mean / np.linalg.norm(mean)).astype("<f2").tobytes()
            own = scores[part]
            rows.append({"aesthetic_score": min(own), "aesthetic_scores": own, "embedding": embedding})
        return rows


def _carried_row(source: Source, column: str) -> dict[str, Any]:
    """Raises UnsupportedMediaError: the source came without such a number."""
    value = source.metadata.get(column)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        there = ", ".join(sorted(source.metadata)) or "nothing"
        what = "no" if value is None else f"{value!r} as its"
        raise UnsupportedMediaError(f"came with {what} {column!r}, so there is no score (it carries {there})")
    return {"aesthetic_score": float(value), "aesthetic_scores": [float(value)], "embedding": None}


def _scores(head: torch.nn.Module, embeddings: NDArray[np.float32]) -> list[float]:
    """One score per L2-normalised embedding, [N, D]."""
    import torch

    # One by one, or a score would depend on its neighbors in the last bit; the head is tiny.
    with torch.inference_mode():
        return [float(head(torch.from_numpy(row))) for row in embeddings]


def load_head(path: Path) -> torch.nn.Module:
    """A LAION head: the v2 MLP (no activations between its layers) or a v1 linear layer.

    Raises:
        ConfigError: the file holds neither.
    """
    import torch

    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name the head's file in it by head_file")
    state = load_weights(path)
    head: torch.nn.Module
    if "layers.0.weight" in state:
        head = _mlp(state["layers.0.weight"].shape[1])
        state = {key.removeprefix("layers."): value for key, value in state.items()}
    elif set(state) == {"weight", "bias"}:
        head = torch.nn.Linear(state["weight"].shape[1], 1)
    else:
        raise ConfigError(f"{path} holds no LAION aesthetic head")
    head.load_state_dict(state)
    return head


def _mlp(width: int) -> torch.nn.Sequential:
    """The v2 head; the indices leave room for the dropout layers that it was trained with."""
    from torch import nn

    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Identity(),
        nn.Linear(1024, 128),
        nn.Identity(),
        nn.Linear(128, 64),
        nn.Identity(),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


STAND_IN_CENTER = 0.0805
STAND_IN_SCALE = 100.0
"""Raw scores of the stand-in lie within 0.01 of the center; stretched, photos fall on both sides of 5.5."""


def _stand_ins() -> tuple[torch.nn.Module, torch.nn.Module]:
    """CLIP and head of the same architectures, tiny, seeded and untrained; their scores mean nothing."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = stand_in_clip({"context_length": 8, "vocab_size": 16}, quick_gelu=True)
        head = _mlp(64)
        stretch = torch.nn.Linear(1, 1)
    with torch.no_grad():
        stretch.weight.fill_(STAND_IN_SCALE)
        stretch.bias.fill_(5.5 - STAND_IN_SCALE * STAND_IN_CENTER)
    return clip, torch.nn.Sequential(head, stretch)
