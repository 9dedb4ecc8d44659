"""Drops pictures that people would not prefer for their caption, by Human Preference Score v2.1.

HPSv2 (arXiv 2306.09341) is CLIP ViT-H/14 trained on human choices between pictures for one prompt; its
score is the cosine between the embeddings of picture and prompt, about 0.15 to 0.35. The prompt is the
caption that came with the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from curation.errors import ConfigError, SampleError, UnsupportedMediaError
from curation.ingest.metadata import drawn_text
from curation.pipeline.models import STAND_IN, fetch
from curation.pipeline.precision import DEFAULT, Precision, computing, stated
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


class HpsConfig(StageConfig):
    """Settings of the preference score."""

    min_score: Annotated[float, KeepMin("hps_score"), Field(ge=-1, le=1)] | None = None
    """Least score, about 0.15..0.35; by default it only counts towards a mean."""
    model: Annotated[str, AfterValidator(known_architecture)] = "ViT-H-14"
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
    precision: Precision = DEFAULT
    """On a GPU `fp32`, `tf32` or `bf16`, each faster than the one before it; on a CPU `tf32` is `fp32`."""


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
    batch_size = 64
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
                precision=stated(config.precision),
            ),
        )

    def measure_settings(self) -> dict[str, Any]:
        """Rows of the default precision are filed with those from before it was a setting."""
        settings = super().measure_settings()
        if self.config.precision == DEFAULT:
            del settings["precision"]
        return settings

    @classmethod
    def placement_settings(cls) -> set[str]:
        return {"weights_sha256", "weights_file"}

    def reads_metadata(self) -> bool:
        return True

    def distributions(self) -> Sequence[str]:
        return ("open_clip_torch", "torch")

    def setup(self, setup: Setup) -> None:
        from open_clip import get_tokenizer

        if self.config.weights == STAND_IN:
            clip = _stand_in()
        else:
            clip = load_checkpoint(self.config.model, fetch(self.models()[0], setup.revisions["hps"]))
        self._device = setup.device
        self._clip = clip.eval().to(setup.device)
        self._tower = ImageTower(clip, setup.device, self.config.precision)
        self._tokenize = get_tokenizer(self.config.model)

    def prepare(self, media: Media) -> Media:
        side = STAND_IN_PX if self.config.weights == STAND_IN else square_px(self.config.model)
        return replace(media, pixels=squares(media.pixels, side))

    def measure(
        self, samples: Sequence[Sample], media: Sequence[Media]
    ) -> list[dict[str, Any] | SampleError]:
        prompts = [self._prompt(sample, item.source) for sample, item in zip(samples, media, strict=True)]
        asked = [
            (item.pixels, prompt)
            for item, prompt in zip(media, prompts, strict=True)
            if isinstance(prompt, str)
        ]
        scores = iter(self._scores(asked))
        return [{"hps_score": next(scores)} if isinstance(prompt, str) else prompt for prompt in prompts]

    def _prompt(self, sample: Sample, source: Source) -> str | UnsupportedMediaError:
        """The prompt, or the error of a sample whose source came without one."""
        prompt = source.metadata.get(self.config.prompt_column)
        if isinstance(prompt, list):
            prompt = drawn_text(prompt, sample.sample_id, self.config.seed)
        if not isinstance(prompt, str) or not prompt.strip():
            return UnsupportedMediaError(f"came without a {self.config.prompt_column!r} to be scored against")
        return prompt

    def _scores(self, asked: Sequence[tuple[NDArray[np.uint8], str]]) -> list[float]:
        """The least cosine of each [T, side, side, 3] uint8 RGB with its prompt."""
        import torch

        if not asked:
            return []
        images = torch.from_numpy(self._tower.embed(np.concatenate([frames for frames, _ in asked])))
        parts = torch.split(images, [len(frames) for frames, _ in asked])
        texts = self._embed_texts([prompt for _, prompt in asked])
        return [float((part @ text).min()) for part, text in zip(parts, texts, strict=True)]

    def _embed_texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """L2-normalised [N, D] on the CPU."""
        import torch

        # One by one on a CPU, where a batch is no faster and would change last digits.
        batches = torch.split(self._tokenize(prompts), len(prompts) if self._device == "cuda" else 1)
        with computing(self.config.precision, self._device):
            found = [self._clip.encode_text(tokens.to(self._device)) for tokens in batches]  # type: ignore[operator]
            return torch.nn.functional.normalize(torch.cat(found).float(), dim=-1).cpu()


def load_checkpoint(model: str, path: Path) -> torch.nn.Module:
    """An open_clip model with the weights of a checkpoint in HPSv2's format: {"state_dict": ...}.

    Raises:
        ConfigError: the file is another one.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name the checkpoint in it by weights_file")
    checkpoint = load_weights(path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise ConfigError(f"{path} holds no HPS checkpoint: it has no state_dict")
    clip = load_clip(model, None)
    try:
        clip.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{path} does not hold the weights of {model}: {str(error)[:300]}") from error
    return clip


def _stand_in() -> torch.nn.Module:
    """The same architecture, tiny, seeded and untrained; its scores mean nothing."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stand_in_clip({"context_length": 77, "vocab_size": 49408})
