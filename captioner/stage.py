"""The caption stage: twelve frames of a window or one image in, one caption out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from captioner import engines, prompts
from captioner.windows import windows
from curation.errors import CaptionError
from curation.models import STAND_IN, fetch
from curation.records import Sample, SampleKind
from curation.stage import Media, ModelRef, Setup, Stage, StageConfig, View, check_template


class CaptionConfig(StageConfig):
    """Settings of the captioner. Emu3: 12 frames, windows of 10-20 s for clips of 20 s and more."""

    engine: Literal["openai", "vllm", "stand-in"]
    """`openai`: a server with that API; `vllm`: in the worker (extra `caption`); `stand-in`: no model."""
    model: str = ""
    """The model's name: as the server calls it, or a hub name or folder for vLLM."""
    revision: str | None = None
    """Revision of a hub name; its newest by default. For a server, what it runs, if known."""
    url: Annotated[str, Field(pattern="^https?://")] | None = None
    """Base URL of the server, such as http://127.0.0.1:8000/v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key, if it wants one."""
    num_frames: Annotated[int, Field(ge=1, le=256)] = 12
    """Frames of a window, at the centers of equal parts."""
    short_side: Annotated[int, Field(ge=28)] = 448
    """Short side in pixels of the frames, never enlarged."""
    split_from_s: Annotated[float, Field(gt=0)] = 20.0
    """Clips at least this long are captioned in windows."""
    max_window_s: Annotated[float, Field(gt=0)] = 20.0
    """Longest window in seconds."""
    image_prompt: str = prompts.IMAGE
    """The question about an image."""
    clip_prompt: str = prompts.CLIP
    """The question about a window; knows {num_frames} and {seconds}."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest caption in the model's tokens."""
    seed: int = 0
    """Seed of the model's sampling, which is greedy."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds to wait for the server's answer."""

    @model_validator(mode="after")
    def _is_complete(self) -> CaptionConfig:
        if self.engine != "stand-in" and not self.model:
            raise ValueError("model is required for this engine")
        if self.engine == "openai" and not self.url:
            raise ValueError("url is required for engine: openai")
        check_template("clip_prompt", self.clip_prompt, num_frames=1, seconds=1.0)
        return self


class CaptionStage(Stage[CaptionConfig]):
    """Asks a vision-language model.

    Columns:
        parent_id: The clip that the window is part of; null where the sample is its own window.
        start_s, end_s: The window, seconds from the start of the source.
        caption: Plain text.
        model: Who wrote it.
        verdict: `ok`, or `truncated` where the answer hit `max_tokens`.
        finish_reason: As the engine gives it.
        num_prompt_tokens, num_output_tokens: In the model's tokens.
        num_frames: Frames that the model saw.
    """

    name = "captions"
    columns = {
        "parent_id": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "caption": pa.string(),
        "model": pa.string(),
        "verdict": pa.string(),
        "finish_reason": pa.string(),
        "num_prompt_tokens": pa.int32(),
        "num_output_tokens": pa.int32(),
        "num_frames": pa.int32(),
    }
    batch_size = 16
    uses_gpu = True
    Config = CaptionConfig

    def view(self, kind: SampleKind) -> View:
        if kind == "image":
            return View(short_side=self.config.short_side)
        return View(count=self.config.num_frames, short_side=self.config.short_side)

    def expand(self, sample: Sample) -> Sequence[Sample]:
        return windows(sample, self.config.split_from_s, self.config.max_window_s)

    def models(self) -> Sequence[ModelRef]:
        if self.config.engine == "openai":
            return ()  # the server's choice; its name and revision are in the settings
        stand_in = self.config.engine == "stand-in"
        name = STAND_IN if stand_in else self.config.model
        return (ModelRef("captioner", name, self.config.revision, stand_in=stand_in),)

    @classmethod
    def placement_settings(cls) -> set[str]:
        return {"url", "api_key_env", "timeout_s"}

    def setup(self, setup: Setup) -> None:
        config = self.config
        self._engine: engines.Engine
        if config.engine == "stand-in":
            self._engine = engines.StandInEngine()
        elif config.engine == "openai":
            self._engine = engines.OpenAIEngine(
                config.url or "",
                config.model,
                os.environ.get(config.api_key_env),
                max_tokens=config.max_tokens,
                seed=config.seed,
                timeout_s=config.timeout_s,
            )
        else:
            self._engine = engines.VLLMEngine(
                fetch(self.models()[0], setup.revisions["captioner"]),
                device=setup.device,
                max_tokens=config.max_tokens,
                seed=config.seed,
                max_frames=config.num_frames,
            )

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        answers = self._engine.answer(
            [self._question(sample, item) for sample, item in zip(samples, media, strict=True)]
        )
        return [
            self._row(sample, item, answer)
            for sample, item, answer in zip(samples, media, answers, strict=True)
        ]

    def _question(self, sample: Sample, media: Media) -> engines.Question:
        prompt = prompts.prompt_for(
            sample.kind,
            len(media.pixels),
            sample.duration_s,
            self.config.image_prompt,
            self.config.clip_prompt,
        )
        return engines.Question(prompt, media.pixels, sample.kind, sample.duration_s)

    def _row(self, sample: Sample, media: Media, answer: engines.Answer) -> dict[str, Any]:
        caption = answer.text.strip()
        if not caption:
            raise CaptionError("the model answered with nothing")
        return {
            "parent_id": sample.parent_id,
            "start_s": sample.start_s,
            "end_s": sample.end_s,
            "caption": caption,
            "model": engines.STAND_IN_MODEL if self.config.engine == "stand-in" else self.config.model,
            "verdict": "truncated" if answer.finish_reason == "length" else "ok",
            "finish_reason": answer.finish_reason,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_output_tokens": answer.num_output_tokens,
            "num_frames": len(media.pixels),
        }
