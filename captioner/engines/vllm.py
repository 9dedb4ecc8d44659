"""vLLM in model workers, and the arguments that it and its server share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from captioner.engine_args import check_engine_args
from captioner.engines.base import ROLE, Answer, AnswerSettings, Engine, Question
from captioner.settings import CaptionConfig
from curation.errors import CaptionError, MissingDependencyError, WorkerError
from curation.pipeline.models import fetch
from curation.stage import ModelRef, Resources, Setup, StageConfig

_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""vLLM reports its use over the network unless told not to."""
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
        )

    @classmethod
    def placement_settings(cls) -> set[str]:
        return set(VLLMConfig.model_fields)

    def setup(self, setup: Setup, sampling: AnswerSettings) -> None:
        """Load the model.

        Raises:
            MissingDependencyError: vLLM is not installed.
        """
        _prepare_environment(setup)
        start = _llm_class()
        model = fetch(self.models()[0], setup.revisions[ROLE])
        self.llm: Any = start(**engine_arguments(self.config, model, setup))
        self._sampling = sampling

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            refused = [self._enqueue(question) for question in questions]
            done = iter(self.llm.wait_for_completion(use_tqdm=False))  # in the order of enqueueing
        except EngineDeadError as error:
            raise WorkerError(f"vLLM's engine died: {error}") from error
        return [error if error is not None else _answer(next(done)) for error in refused]

    def _enqueue(self, question: Question) -> CaptionError | None:
        """Hand a question to the engine; what it refuses concerns this question alone."""
        from vllm.exceptions import VLLMValidationError

        try:
            if self._sampling.frames_as == "video" and question.kind == "clip":
                self.llm.enqueue(self._video_prompt(question), self._params(question), use_tqdm=False)
            else:
                self.llm.enqueue_chat(_image_chat(question), self._params(question), use_tqdm=False)
        except (ValueError, VLLMValidationError) as error:
            return CaptionError(f"vLLM refused: {error}")
        return None

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
