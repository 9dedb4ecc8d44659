"""The caption stage: twelve frames of a window or one image in, one caption out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.captioner import gate, structure
from curation.captioner.engines.base import Answer, AnswerSettings, Engine, Question
from curation.captioner.prompt import Length, drawn_length, load_prompts
from curation.captioner.settings import CaptionConfig
from curation.captioner.usage import Usage
from curation.captioner.windows import windows
from curation.errors import CaptionError, SampleError
from curation.records import Sample, SampleKind, stable_id
from curation.registry import ENGINES
from curation.stage import Column, Media, ModelRef, Resources, Service, Setup, Stage, View

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


class CaptionStage(Stage[CaptionConfig]):
    """Asks a vision-language model, and asks again if the answer is no caption."""

    name = "captions"
    produces = "caption"
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
    counted_columns = (
        "length",
        "model",
        "verdict",
        "verdicts",
        "finish_reason",
        "num_prompt_tokens",
        "num_output_tokens",
    )
    batch_size = 256
    Config = CaptionConfig

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__(config)
        self._prompts = load_prompts(config.prompts, config.lengths, structured=config.structured)
        self.engine: Engine[Any] = ENGINES.load(config.engine)(config)

    def view(self, kind: SampleKind) -> View | None:
        if not self.engine.needs_frames:
            return None
        if kind == "image":
            return View(short_side=self.config.short_side)
        return View(count=self.config.num_frames, short_side=self.config.short_side)

    def expand(self, sample: Sample) -> Sequence[Sample]:
        return windows(sample, self.config.split_from_s, self.config.max_window_s)

    def models(self) -> Sequence[ModelRef]:
        return self.engine.models()

    def packages(self) -> Mapping[str, str]:
        return self.engine.packages()

    def distributions(self) -> Sequence[str]:
        name = self.config.engine
        return [*self.engine.distributions(), *ENGINES.distributions(name, type(self.engine))]

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
            "prompts",
        }

    def measure_settings(self) -> dict[str, Any]:
        """Of the engine's own section, what changes captions counts."""
        own = self.engine.own.model_dump(mode="json", exclude=self.engine.placement_settings())
        section: dict[str, Any] = {self.config.engine: own} if own else {}
        if self.engine.version > 1:
            section["engine_version"] = self.engine.version
        return {**super().measure_settings(), "prompts": self._prompts.digest, **section}

    def resources(self) -> Resources:
        return self.engine.resources()

    def service(self) -> Service | None:
        return self.engine.service()

    def reads_metadata(self) -> bool:
        return self.engine.reads_metadata

    def setup(self, setup: Setup) -> None:
        config = self.config
        schema = structure.schema() if config.structured else None
        self._usage = Usage()  # here, because a lock does not travel to the worker
        self.engine.setup(setup, AnswerSettings(config.max_tokens, schema, config.frames_as))

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
        return self._usage.taken(varies=self.engine.varies)

    def counts(self, rows: pa.Table) -> Iterator[tuple[str, str, int]]:
        answered = rows.filter(pc.equal(rows["status"], "ok"))
        unanswered = rows.filter(pc.equal(rows["error_type"], CaptionError.__name__))
        refused = [
            verdict for error in unanswered["error"].to_pylist() for verdict in _verdicts_of(error or "")
        ]
        attempts = pa.chunked_array(
            [*pc.list_flatten(answered["verdicts"]).chunks, pa.array(refused, pa.string())]
        )
        reasons = pc.binary_join_element_wise(answered["model"], answered["finish_reason"], ": ")
        yield from _tally("verdict", answered["verdict"])
        yield from _tally("finish reason", reasons)
        yield from _tally("attempts", attempts)
        yield from _tally("length", answered["length"].drop_null())
        for what in ("prompt", "output"):
            column = f"num_{what}_tokens"
            for sums in (
                answered.group_by("model", use_threads=False).aggregate([(column, "sum")]).to_pylist()
            ):
                yield "tokens", f"{sums['model']}: {what}", sums[f"{column}_sum"]

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
        questions = [self._asked(talk, attempt) for talk in talks]
        with self._usage.asking():
            answers = self.engine.answer(questions)
        for talk, answer in zip(talks, answers, strict=True):
            if isinstance(answer, CaptionError):
                talk.outcome = answer
                continue
            self._usage.add(answer)
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
            "model": self.engine.author,
            "verdict": talk.verdicts[-1],
            "verdicts": list(talk.verdicts),
            "finish_reason": answer.finish_reason,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_output_tokens": answer.num_output_tokens,
            "num_frames": len(talk.media.pixels),
        }


def _tally(group: str, names: pa.ChunkedArray) -> Iterator[tuple[str, str, int]]:
    """How often each text occurs."""
    for found in pc.value_counts(names).to_pylist():
        yield group, found["values"], found["counts"]


def _verdicts_of(error: str) -> list[str]:
    """The verdicts in the message of a sample that got no caption."""
    head, separator, _ = error.partition("; the last answer: ")
    return head.split(", ") if separator else []
