"""vLLM in model workers, and the arguments that it and its server share."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from curation.captioner.engine_args import check_engine_args
from curation.captioner.engines.base import ROLE, Answer, AnswerSettings, Engine, Question
from curation.captioner.settings import CaptionConfig
from curation.errors import (
    CaptionError,
    EnvironmentFault,
    MeasureError,
    MissingDependencyError,
    WorkerError,
)
from curation.errors.isolation import isolated
from curation.pipeline.models import fetch
from curation.stage import ModelRef, Resources, Setup, StageConfig

_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""vLLM reports its use over the network unless told not to."""
CONCURRENCY = 8
"""Requests that an engine has at once. One holds few questions, 13 of twelve frames at the default sizes,
because decode workers bound the bytes that they hold; an engine answers a hundred in hardly more time."""
_MEMORY_FRACTION = 0.92
"""Part of a card that vLLM fills by default (`CacheConfig.gpu_memory_utilization` of vLLM 0.32)."""


class VLLMConfig(StageConfig):
    """What only vLLM in model workers has to know."""

    num_engines: Annotated[int, Field(ge=1)] | None = None
    """Engines at most, each with `tensor_parallel_size` GPUs of its own. By default as many as the cluster's
    GPUs have room for, less a card for other models of the pass, such as the tokenizer's; 1 without a GPU."""


def engine_arguments(config: CaptionConfig, model: Path, setup: Setup) -> dict[str, Any]:
    """Arguments of vLLM's engine, for `vllm.LLM` and for the server alike, where `setup` says they run."""
    return _model_arguments(config, model) | _device_arguments(config, setup) | config.engine_args


def _model_arguments(config: CaptionConfig, model: Path) -> dict[str, Any]:
    is_video = config.frames_as == "video"
    arguments: dict[str, Any] = {
        "model": str(model),
        "dtype": config.dtype,
        "seed": config.seed,
        "tensor_parallel_size": config.tensor_parallel_size,
        # Start-up keeps room for the largest prompt that is allowed, so allow no more than comes.
        "limit_mm_per_prompt": {"image": 1 if is_video else config.num_frames, "video": int(is_video)},
        # A clip is seen once; keeping its processed pixels is of no use.
        "mm_processor_cache_gb": 0,
    }
    if config.quantization is not None:
        arguments["quantization"] = config.quantization
    if config.max_pixels is not None:
        size = {"shortest_edge": min(config.max_pixels, 56 * 56), "longest_edge": config.max_pixels}
        arguments["mm_processor_kwargs"] = {"size": size}
    if config.structured:
        # Without this a model may fill its tokens with line breaks, which JSON allows anywhere.
        arguments["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
    return arguments


def _device_arguments(config: CaptionConfig, setup: Setup) -> dict[str, Any]:
    if setup.device == "cpu":
        return {}
    arguments: dict[str, Any] = {}
    if setup.gpu_fraction < 1:
        arguments["gpu_memory_utilization"] = round(_MEMORY_FRACTION * setup.gpu_fraction, 3)
    if config.tensor_parallel_size > 1:
        # Named, because vLLM by itself counts the cards that this process sees before it looks for a
        # placement group, in which a worker has none itself.
        arguments["distributed_executor_backend"] = "ray" if setup.in_placement_group else "mp"
    return arguments


class VLLMEngine(Engine[VLLMConfig]):
    """Hands every question of a batch to vLLM at once, which makes its own batches of them."""

    Config = VLLMConfig

    def check(self) -> None:
        check_vllm(self)

    def models(self) -> Sequence[ModelRef]:
        return (ModelRef(ROLE, self.config.model, self.config.revision),)

    def packages(self) -> Mapping[str, str]:
        return {"vllm": "caption"}

    def distributions(self) -> Sequence[str]:
        return ("torch", "transformers", "vllm")

    def resources(self) -> Resources:
        return Resources(
            gpu=True,
            whole_gpus=self.config.tensor_parallel_size,
            apart=True,
            group="captions",
            max_workers=self.own.num_engines,
            concurrency=CONCURRENCY,
        )

    @classmethod
    def placement_settings(cls) -> set[str]:
        return set(VLLMConfig.model_fields)

    def setup(self, setup: Setup, sampling: AnswerSettings) -> None:
        """Load the model.

        Raises:
            MissingDependencyError: vLLM is not installed.
            EnvironmentFault: it does not start, for want of memory for example.
        """
        _prepare_environment(setup)
        start = _llm_class()
        model = fetch(self.models()[0], setup.revisions[ROLE])
        try:
            self.llm: Any = start(**engine_arguments(self.config, model, setup))
        except (OSError, RuntimeError, ValueError) as error:
            raise EnvironmentFault(f"vLLM did not start with {self.config.model}: {error}") from error
        self._processes = multiprocessing.active_children()
        _watch_processes(self.llm, self._processes)
        self._sampling = sampling
        self._turns = _Turns()
        self._done: dict[int, Any] = {}

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        """See `Engine.answer`. Several threads may ask at once.

        Calls of vLLM are of one thread at a time, but its engine goes on meanwhile. So one thread prepares
        the pictures of its questions while the engine still writes the last answers to another one's.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            with isolated(MeasureError):
                numbers = [self._enqueued(question) for question in questions]
                return [one if isinstance(one, CaptionError) else self._answered(one) for one in numbers]
        except MeasureError as error:
            # Who asks while vLLM takes notice gets whatever its closed socket says.
            is_dead = isinstance(error.__cause__, EngineDeadError)
            if is_dead or not all(process.is_alive() for process in self._processes):
                raise WorkerError(f"vLLM's engine died: {error}") from error
            raise

    def _enqueued(self, question: Question) -> int | CaptionError:
        """Hand a question to the engine; its number there, or why the engine refuses this question."""
        from vllm.exceptions import VLLMValidationError

        with self._turns.mine():
            try:
                (name,) = self._enqueue(question)
            except (ValueError, VLLMValidationError) as error:
                return CaptionError(f"vLLM refused: {error}")
        return int(name.partition("-")[0])  # what follows the number is random

    def _enqueue(self, question: Question) -> list[str]:
        params = self._params(question)
        if self._sampling.frames_as == "video" and question.kind == "clip":
            enqueued: list[str] = self.llm.enqueue(self._video_prompt(question), params, use_tqdm=False)
        else:
            enqueued = self.llm.enqueue_chat(_image_chat(question), params, use_tqdm=False)
        return enqueued

    def _answered(self, number: int) -> Answer:
        """The answer to a question; other threads' answers that come before it are kept for them."""
        while True:
            with self._turns.mine():
                if number in self._done:
                    return _answer(self._done.pop(number))
                for result in self.llm.llm_engine.step():
                    if result.finished:
                        self._done[int(result.request_id)] = result

    def _params(self, question: Question) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        schema = self._sampling.schema
        return SamplingParams(
            temperature=question.temperature,
            seed=question.seed,
            max_tokens=self._sampling.max_tokens,
            structured_outputs=StructuredOutputsParams(json=dict(schema)) if schema else None,
        )

    def _video_prompt(self, question: Question) -> dict[str, Any]:
        """The chat with a video in it, which vLLM's chat API has no way to take as an array."""
        content = [{"type": "video"}, {"type": "text", "text": question.prompt}]
        text = self.llm.get_tokenizer().apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        number = len(question.frames)
        metadata = {
            "fps": question.fps,
            "duration": question.seconds,
            "total_num_frames": number,
            "frames_indices": list(range(number)),
            "video_backend": "opencv",
            "do_sample_frames": False,
        }
        return {"prompt": text, "multi_modal_data": {"video": [(question.frames, metadata)]}}


class _Turns:
    """A lock that threads get in turn. A plain one mostly goes back to the thread that has just left it."""

    def __init__(self) -> None:
        self._next, self._turn = threading.Lock(), threading.Lock()

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Wait for the turn of this thread, and hold it."""
        with self._next:
            self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()


def check_vllm(engine: Engine[Any]) -> None:
    """What vLLM needs, in this process and as a server.

    Raises:
        ValueError: the model is missing, or an argument would do more than change vLLM's speed.
    """
    engine.require("model")
    check_engine_args(engine.config.engine_args)


def _prepare_environment(setup: Setup) -> None:
    """Set this process's variables; vLLM reads them when it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if setup.device == "cpu":
        # One process instead of three. With a GPU, the engine's own process keeps it busy meanwhile.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if setup.in_placement_group:
        # The part of a card that each process of the model takes of its bundle.
        os.environ["VLLM_RAY_PER_WORKER_GPUS"] = f"{setup.gpu_fraction:g}"
        # Ray hides all cards from a worker that has none itself; vLLM asks for their kind.
        if not os.environ.get("CUDA_VISIBLE_DEVICES"):
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def _llm_class() -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise MissingDependencyError(
            "engine: vllm needs the package vllm: pip install 'curation[caption]', or keep it in an "
            "environment of its own and use engine: serve"
        ) from error
    return LLM


def _watch_processes(llm: Any, processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Wake who waits for vLLM's engine when one of its processes is killed.

    vLLM 0.32 notices that, but closes the engine's socket without a word to whoever waits for its output.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    sentinels = [process.sentinel for process in processes]
    outputs: Any = getattr(llm.llm_engine.engine_core, "outputs_queue", None)
    if outputs is None or not sentinels:
        return  # the engine runs in this process

    def watch() -> None:
        wait(sentinels)
        outputs.put(EngineDeadError())

    threading.Thread(target=watch, daemon=True).start()


def _image_chat(question: Question) -> list[dict[str, Any]]:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in question.frames]
    content: list[dict[str, Any]] = [{"type": "image_pil", "image_pil": picture} for picture in pictures]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}]


def _answer(result: Any) -> Answer:
    (output,) = result.outputs
    return Answer(
        text=output.text,
        finish_reason=output.finish_reason or "unknown",
        num_prompt_tokens=len(result.prompt_token_ids or ()),
        num_output_tokens=len(output.token_ids),
    )
