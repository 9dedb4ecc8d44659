"""The caption stage: twelve frames of a window or one image in, one caption out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from captioner import gate, structure
from captioner.engines.base import Answer, Engine, Question, Sampling
from captioner.engines.modest import STAND_IN_MODEL, SidecarEngine, StandInEngine
from captioner.engines.openai import OpenAIEngine, RetryPolicy
from captioner.engines.vllm import VLLMEngine, engine_arguments
from captioner.prompt import Length, drawn_length, load_prompts
from captioner.server import KEY, URL, serving
from captioner.settings import CaptionConfig
from captioner.windows import windows
from curation.errors import CaptionError, ConfigError, SampleError
from curation.pipeline.models import STAND_IN, fetch
from curation.records import Row, Sample, SampleKind, stable_id
from curation.stage import Column, Media, ModelRef, Setup, Stage, View

_MAX_KEPT_CHARS = 2000
"""Of the last answer, in the error of a sample that got no caption."""


@dataclass
class _Talk:
    """A sample, and what the model said about it so far."""

    sample: Sample
    media: Media
    length: Length
    prompt: str
    verdicts: list[str] = field(default_factory=list)
    outcome: dict[str, Any] | SampleError | None = None


_ASKING_RETRY_S = 60.0
"""How long `label ask`, at which somebody sits and waits, goes on asking a server that is away."""


class CaptionStage(Stage[CaptionConfig]):
    """Asks a vision-language model, and asks again if the answer is no caption."""

    name = "captions"
    version = 2
    columns = {
        "parent_id": Column(
            pa.string(),
            "The clip that the window is part of; null where the sample is its own window.",
        ),
        "start_s": Column(pa.float64(), "Begin of the window, seconds from the start of the source."),
        "end_s": Column(pa.float64(), "Its end, likewise."),
        "caption": Column(pa.string(), "Plain text.", exported=True),
        **{
            name: Column(pa.string(), f"The caption's part on {name}; null where it is not structured.")
            for name in structure.NAMES
        },
        "length": Column(
            pa.string(),
            "The length asked for: short, medium or long; null where nothing was asked.",
        ),
        "language": Column(pa.string(), "Of the caption, as asked for."),
        "model": Column(pa.string(), "Who wrote it."),
        "verdict": Column(pa.string(), "`ok`, or what is wrong with it that the settings let pass."),
        "verdicts": Column(pa.list_(pa.string()), "Those of all attempts, in order."),
        "finish_reason": Column(pa.string(), "As the engine gives it."),
        "num_prompt_tokens": Column(pa.int32(), "In the model's tokens, of the attempt that was taken."),
        "num_output_tokens": Column(pa.int32(), "Likewise."),
        "num_frames": Column(pa.int32(), "Frames that the model saw."),
    }
    batch_size = 256
    uses_gpu = True
    Config = CaptionConfig

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__(config)
        self._prompts = load_prompts(config.prompts, config.lengths, structured=config.structured)
        self._used: Counter[str] = Counter()

    def view(self, kind: SampleKind) -> View | None:
        if self.config.engine == "sidecar":
            return None
        if kind == "image":
            return View(short_side=self.config.short_side)
        return View(count=self.config.num_frames, short_side=self.config.short_side)

    def expand(self, sample: Sample) -> Sequence[Sample]:
        return windows(sample, self.config.split_from_s, self.config.max_window_s)

    def models(self) -> Sequence[ModelRef]:
        if self.config.engine in ("openai", "sidecar"):
            return ()  # the server's choice, or unknown; what is known is in the settings
        stand_in = self.config.engine == "stand-in"
        name = STAND_IN if stand_in else self.config.model
        return (ModelRef("captioner", name, self.config.revision, stand_in=stand_in),)

    def packages(self) -> Mapping[str, str]:
        """A server may have vLLM in an environment of its own."""
        engine, serve = self.config.engine, self.config.serve
        in_here = engine == "vllm" or (engine == "serve" and serve.python is None)
        return {"vllm": "caption"} if in_here else {}

    @classmethod
    def placement_settings(cls) -> set[str]:
        return {
            "url",
            "api_key_env",
            "timeout_s",
            "retry_for_s",
            "concurrency",
            "tensor_parallel_size",
            "engine_args",
            "serve",
            "prompts",
        }

    def measure_settings(self) -> dict[str, Any]:
        return {**super().measure_settings(), "prompts": self._prompts.digest}

    def num_gpus(self) -> int | None:
        """An engine in the worker takes whole GPUs; asking a server takes none."""
        return self.config.tensor_parallel_size if self.config.engine == "vllm" else 0

    def service(self, revisions: Mapping[str, str]) -> AbstractContextManager[Mapping[str, str]] | None:
        if self.config.engine != "serve":
            return None
        model = fetch(self.models()[0], revisions["captioner"])
        return serving(self.config, engine_arguments(self.config, model))

    def reads_metadata(self) -> bool:
        return self.config.engine == "sidecar"

    def setup(self, setup: Setup) -> None:
        config = self.config
        sampling = Sampling(
            max_tokens=config.max_tokens,
            schema=structure.schema() if config.structured else None,
            frames_as=config.frames_as,
        )
        self.engine: Engine
        if config.engine == "stand-in":
            self.engine = StandInEngine()
        elif config.engine == "sidecar":
            self.engine = SidecarEngine(config.column, config.seed)
        elif config.engine == "vllm":
            model = fetch(self.models()[0], setup.revisions["captioner"])
            self.engine = VLLMEngine(engine_arguments(config, model), sampling, device=setup.device)
        else:
            is_own = config.engine == "serve"
            self.engine = OpenAIEngine(
                setup.services[URL] if is_own else config.url or "",
                config.model,
                setup.services[KEY] if is_own else os.environ.get(config.api_key_env),
                sampling,
                retry=RetryPolicy(config.timeout_s, config.retry_for_s),
                concurrency=config.concurrency,
                image_format=config.image_format,
                is_own=is_own,
            )

    def measure(
        self, samples: Sequence[Sample], media: Sequence[Media]
    ) -> Sequence[dict[str, Any] | SampleError]:
        talks = [self._talk(sample, item) for sample, item in zip(samples, media, strict=True)]
        for attempt in range(self.config.max_attempts if self.engine.varies else 1):
            waiting = [talk for talk in talks if talk.outcome is None]
            if waiting:
                self._ask(waiting, attempt)
        return [talk.outcome for talk in talks if talk.outcome is not None]

    def usage(self) -> dict[str, float]:
        used = {**self._used, "engine_s": self.engine.busy_s}
        self._used.clear()
        self.engine.busy_s = 0.0
        return used

    def counts(self, row: Row) -> Iterator[tuple[str, str, int]]:
        if not row.ok:
            if row.error_type == CaptionError.__name__:
                yield from (("attempts", verdict, 1) for verdict in _verdicts_of(row.error or ""))
            return
        values = row.values
        yield "verdict", values["verdict"], 1
        yield "finish reason", f"{values['model']}: {values['finish_reason']}", 1
        yield from (("attempts", verdict, 1) for verdict in values["verdicts"])
        if values["length"] is not None:
            yield "length", values["length"], 1
        yield "tokens", f"{values['model']}: prompt", values["num_prompt_tokens"]
        yield "tokens", f"{values['model']}: output", values["num_output_tokens"]

    def _talk(self, sample: Sample, media: Media) -> _Talk:
        config = self.config
        length = drawn_length(sample.sample_id, config.lengths, config.seed)
        prompt = self._prompts.text(
            sample.kind,
            length,
            structured=config.structured,
            num_frames=len(media.pixels),
            seconds=sample.duration_s,
            language=config.language,
        )
        return _Talk(sample, media, length, prompt)

    def _ask(self, talks: Sequence[_Talk], attempt: int) -> None:
        answers = self.engine.answer([self._asked(talk, attempt) for talk in talks])
        for talk, answer in zip(talks, answers, strict=True):
            if isinstance(answer, CaptionError):
                talk.outcome = answer
                continue
            self._used["answers"] += 1
            self._used["prompt_tokens"] += answer.num_prompt_tokens
            self._used["output_tokens"] += answer.num_output_tokens
            is_last = attempt == self.config.max_attempts - 1 or not self.engine.varies
            self._take(talk, answer, is_last=is_last)

    def question(self, sample: Sample, media: Media) -> Question:
        """What is asked first about a sample."""
        return self._asked(self._talk(sample, media), 0)

    def _asked(self, talk: _Talk, attempt: int) -> Question:
        config = self.config
        seed = int(stable_id("caption", config.seed, talk.sample.sample_id, attempt)[:7], 16)
        temperature = config.temperature if attempt == 0 else config.retry_temperature
        return Question(
            prompt=talk.prompt,
            frames=talk.media.pixels,
            kind=talk.sample.kind,
            seconds=talk.sample.duration_s,
            temperature=temperature,
            seed=seed,
            metadata=talk.media.source.metadata,
            sample_id=talk.sample.sample_id,
        )

    def _take(self, talk: _Talk, answer: Answer, *, is_last: bool) -> None:
        """Judge an answer: it becomes the sample's row, or after the last attempt its error."""
        config = self.config
        parts = structure.parse(answer.text) if self._is_asked and config.structured else None
        caption = parts.caption if parts else answer.text.strip()
        prompt = talk.prompt if self._is_asked else ""
        verdict = gate.judge(caption, answer.finish_reason, prompt, config.language, config.gate)
        if self._is_asked and config.structured and parts is None and verdict not in ("empty", "cut_off"):
            verdict = "malformed"
        talk.verdicts.append(verdict or gate.OK)
        if verdict is None or verdict not in config.gate.refuse:
            talk.outcome = self._row(talk, answer, caption, parts)
        elif is_last:
            talk.outcome = CaptionError(
                f"{', '.join(talk.verdicts)}; the last answer: {answer.text[:_MAX_KEPT_CHARS]!r}"
            )

    @property
    def _is_asked(self) -> bool:
        """Whether a model was asked, by a prompt."""
        return self.engine.varies

    def _row(
        self, talk: _Talk, answer: Answer, caption: str, parts: structure.Parts | None
    ) -> dict[str, Any]:
        sample = talk.sample
        return {
            "parent_id": sample.parent_id,
            "start_s": sample.start_s,
            "end_s": sample.end_s,
            "caption": caption,
            **(parts.model_dump() if parts else dict.fromkeys(structure.NAMES)),
            "length": talk.length if self._is_asked else None,
            "language": self.config.language,
            "model": self._model,
            "verdict": talk.verdicts[-1],
            "verdicts": list(talk.verdicts),
            "finish_reason": answer.finish_reason,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_output_tokens": answer.num_output_tokens,
            "num_frames": len(talk.media.pixels),
        }

    @property
    def _model(self) -> str:
        engine = self.config.engine
        if engine == "stand-in":
            return STAND_IN_MODEL
        return f"sidecar: {self.config.column}" if engine == "sidecar" else self.config.model


def _verdicts_of(error: str) -> list[str]:
    """The verdicts in the message of a sample that got no caption."""
    head, separator, _ = error.partition("; the last answer: ")
    return head.split(", ") if separator else []


def server_engine(url: str, model: str, api_key_env: str, concurrency: int) -> Engine:
    """An engine for plain questions outside of a run, at a server with OpenAI's API.

    Raises:
        ConfigError: there can be no such server.
    """
    try:
        config = CaptionConfig(
            engine="openai", url=url, model=model, api_key_env=api_key_env, concurrency=concurrency
        )
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        raise ConfigError(
            "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found)
        ) from None
    key = os.environ.get(config.api_key_env)
    return OpenAIEngine(
        config.url or "",
        config.model,
        key,
        Sampling(config.max_tokens),
        retry=RetryPolicy(config.timeout_s, _ASKING_RETRY_S),
        concurrency=concurrency,
    )
