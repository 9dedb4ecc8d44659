"""Drops pictures that people would not prefer for their caption, by Human Preference Score v2.1.

HPSv2 (arXiv 2306.09341) is CLIP ViT-H/14 trained on human choices between pictures for one prompt; its
score is the cosine between the embeddings of picture and prompt, about 0.15 to 0.35. The prompt is the
caption that came with the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from curation.errors import ConfigError, UnsupportedMediaError
from curation.ingest.metadata import drawn_text
from curation.pipeline.models import STAND_IN, fetch
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

if TYPE_CHECKING:
    import torch


class HpsConfig(StageConfig):
    """Settings of the preference score."""

    min_score: Annotated[float, KeepMin("hps_score"), Field(ge=-1, le=1)] | None = None
    """Least score, about 0.15..0.35; by default it only counts towards a mean."""
    model: str = "ViT-H-14"
    """open_clip architecture."""
    weights: Location = "xswu/HPSv2"
    """Checkpoint: hub name, file, URL, or `stand-in` for a tiny untrained model."""
    weights_file: str | None = "HPS_v2.1_compressed.pt"
    """Name of the checkpoint, where `weights` is a hub name or a folder."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """sha256 that the checkpoint must have; a URL needs it."""
    revision: str | None = None
    """Revision of the hub name; its newest by default."""
    prompt_column: Annotated[str, Field(min_length=1)] = "caption"
    """Name under which the prompt came with the source; without it a sample fails."""
    seed: int = 0
    """Seed of the draw of a prompt where several came along; that of `captions` draws the same one."""
    num_frames: Annotated[int, Field(ge=1, le=64)] = 3
    """Frames of a clip, at the centers of equal parts; the worst one counts."""


class HpsStage(Stage[HpsConfig]):
    """Scores an image, or a clip by its worst frame, against its caption."""

    name = "hps"
    columns = {
        "hps_score": Column(
            pa.float32(),
            "Cosine between the embeddings of frame and caption, -1..1; of a clip, that of its worst frame.",
            exported=True,
        ),
    }
    Config = HpsConfig

    def view(self, kind: SampleKind) -> View:
        return View() if kind == "image" else View(count=self.config.num_frames, short_side=256)

    def resources(self) -> Resources:
        return Resources(gpu=bool(self.models()))

    def models(self) -> Sequence[ModelRef]:
        config = self.config
        is_stand_in = config.weights == STAND_IN
        return (
            ModelRef(
                "hps",
                config.weights,
                config.revision,
                file=None if is_stand_in else config.weights_file,
                sha256=config.weights_sha256,
                stand_in=is_stand_in,
            ),
        )

    @classmethod
    def placement_settings(cls) -> set[str]:
        return {"weights_sha256", "weights_file"}

    def reads_metadata(self) -> bool:
        return True

    def distributions(self) -> Sequence[str]:
        return ("open_clip_torch", "torch")

    def setup(self, setup: Setup) -> None:
        from open_clip import get_tokenizer, image_transform

        if self.config.weights == STAND_IN:
            clip = _stand_in()
        else:
            clip = load_checkpoint(self.config.model, fetch(self.models()[0], setup.revisions["hps"]))
        self._device = setup.device
        self._clip = clip.eval().to(setup.device)
        self._preprocess = image_transform(224, is_train=False)
        self._tokenize = get_tokenizer(self.config.model)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [
            {"hps_score": self._score(item.pixels, self._prompt(sample, item.source))}
            for sample, item in zip(samples, media, strict=True)
        ]

    def _prompt(self, sample: Sample, source: Source) -> str:
        """Raises UnsupportedMediaError: the source came without a prompt."""
        prompt = source.metadata.get(self.config.prompt_column)
        if isinstance(prompt, list):
            prompt = drawn_text(prompt, sample.sample_id, self.config.seed)
        if not isinstance(prompt, str) or not prompt.strip():
            raise UnsupportedMediaError(f"came without a {self.config.prompt_column!r} to be scored against")
        return prompt

    def _score(self, frames: NDArray[np.uint8], prompt: str) -> float:
        """The least cosine of [T, H, W, 3] uint8 RGB frames with their prompt."""
        import torch
        from PIL import Image

        pixels = torch.stack([self._preprocess(Image.fromarray(frame)) for frame in frames])
        tokens = self._tokenize([prompt])
        on_gpu = self._device == "cuda"
        if on_gpu:
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
            tokens = tokens.pin_memory().to(self._device, non_blocking=True)
        with torch.inference_mode(), torch.autocast(self._device, torch.bfloat16, enabled=on_gpu):
            # Frame by frame on a CPU, where a batch is no faster and would change last digits.
            batches = torch.split(pixels, len(pixels) if on_gpu else 1)
            images = torch.cat([self._clip.encode_image(part) for part in batches])  # type: ignore[operator]
            text = self._clip.encode_text(tokens)  # type: ignore[operator]
        normalize = torch.nn.functional.normalize
        cosines = normalize(images.float(), dim=-1) @ normalize(text.float(), dim=-1)[0]
        return float(cosines.min())


def load_checkpoint(model: str, path: Path) -> torch.nn.Module:
    """An open_clip model with the weights of a checkpoint in HPSv2's format: {"state_dict": ...}.

    Raises:
        ConfigError: the file is another one.
    """
    import open_clip
    import torch

    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name the checkpoint in it by weights_file")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise ConfigError(f"{path} holds no HPS checkpoint: it has no state_dict")
    clip: torch.nn.Module = open_clip.create_model(model, pretrained=None)
    try:
        clip.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{path} does not hold the weights of {model}: {str(error)[:300]}") from error
    return clip


def _stand_in() -> torch.nn.Module:
    """The same architecture, tiny, seeded and untrained; its scores mean nothing."""
    import torch
    from open_clip import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip: torch.nn.Module = CLIP(
            embed_dim=64,
            vision_cfg={"layers": 2, "width": 64, "head_width": 32, "patch_size": 32, "image_size": 224},
            text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
        )
    return clip
