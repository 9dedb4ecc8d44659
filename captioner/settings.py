"""Settings of the captioner."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from captioner.engine_args import check_engine_args
from captioner.gate import SCRIPTS, GateConfig
from captioner.prompt import Length, load_prompts
from curation.errors import ConfigError
from curation.stage import Location, StageConfig

EngineName = Literal["vllm", "serve", "openai", "sidecar", "stand-in"]


def _environment_name(text: str) -> str:
    if not text.isidentifier():
        # Most likely it is the key itself, so it is not repeated.
        raise ValueError("is to name an environment variable that holds the key, such as OPENAI_API_KEY")
    return text


EnvironmentName = Annotated[str, AfterValidator(_environment_name)]


class ServeConfig(StageConfig):
    """The server that a run starts, watches and stops."""

    python: Location | None = None
    """The Python that has vLLM, such as .venv-caption/bin/python; by default the one that runs this."""
    host: str = "127.0.0.1"
    """Address to listen on. On a cluster, this machine's address that workers on other nodes can reach."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port to listen on; 0 takes a free one."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds for loading the model."""
    max_restarts: Annotated[int, Field(ge=0)] = 5
    """A server that ended by itself this many times in a run is not started again."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables for the server, such as CUDA_VISIBLE_DEVICES. They go to run.json, but for
    what is named like a secret."""


class CaptionConfig(StageConfig):
    """Settings of the captioner. Emu3: 12 frames, windows of 10-20 s for clips of 20 s and more."""

    engine: EngineName
    """`vllm`: in the worker (extra `caption`); `serve`: a vLLM server that the run starts and stops;
    `openai`: any server with that API; `sidecar`: what came with the data; `stand-in`: no model."""
    model: Location = ""
    """A hub name or folder for vLLM; for engine `openai` the name that the server knows."""
    revision: str | None = None
    """Revision of a hub name; its newest by default. For engine `openai` what the server runs, if known."""
    url: Annotated[Location, Field(pattern="^https?://")] | None = None
    """Base URL of the server, such as http://127.0.0.1:8000/v1, for engine `openai`."""
    api_key_env: EnvironmentName = "OPENAI_API_KEY"
    """Environment variable of the workers that holds the server's key, if it wants one."""
    column: str = "caption"
    """Name of the text that came with a source, for engine `sidecar`."""

    num_frames: Annotated[int, Field(ge=1, le=256)] = 12
    """Frames of a window, at the centers of equal parts."""
    short_side: Annotated[int, Field(ge=28)] = 448
    """Short side in pixels of the frames, never enlarged."""
    frames_as: Literal["images", "video"] = "images"
    """How a window is shown: as images in order, or as one video (fewer tokens; vLLM alone takes it)."""
    image_format: Literal["jpeg", "png"] = "jpeg"
    """How frames travel to a server: JPEG (quality 92) is a tenth of PNG, PNG is exact."""
    split_from_s: Annotated[float, Field(gt=0)] = 20.0
    """Clips at least this long are captioned in windows."""
    max_window_s: Annotated[float, Field(gt=0)] = 20.0
    """Longest window in seconds."""

    prompts: Location | None = None
    """Folder of prompt files like those in captioner/prompts, which are the default."""
    lengths: Annotated[dict[Length, Annotated[float, Field(ge=0)]], Field(min_length=1)] = Field(
        default={"short": 0.1, "medium": 0.2, "long": 0.7}
    )
    """Weights of short, medium and long captions; each sample's length is drawn by `seed`."""
    language: str = "English"
    """Language of the captions, in English."""
    structured: bool = False
    """Whether the model answers in JSON with subject, motion, camera and style, held to it by a grammar."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest answer in the model's tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of the first attempt; 0 takes the likeliest token."""
    retry_temperature: Annotated[float, Field(ge=0)] = 0.7
    """Of further attempts, each with a seed of its own."""
    max_attempts: Annotated[int, Field(ge=1)] = 3
    """How often a model is asked for a caption that the gate lets pass."""
    seed: int = 0
    """Seed of the draws of lengths, of the model's sampling, and of one text where several came along."""
    gate: GateConfig = GateConfig()
    """What counts as a caption."""

    dtype: str = "auto"
    """Number type of the weights, for vLLM: auto, bfloat16, float16, float32."""
    quantization: str | None = None
    """vLLM's name of a quantization, such as fp8; by default what the weights say."""
    max_pixels: Annotated[int, Field(ge=1)] | None = None
    """vLLM scales pictures down to this many pixels: one frame's with Qwen2.5-VL, a clip's with Qwen3-VL."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """GPUs that one engine spans."""
    engine_args: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of vLLM's engine that change speed, not texts, such as {max_num_seqs: 64}; none that
    run code from elsewhere."""
    serve: ServeConfig = ServeConfig()
    """The server of engine `serve`."""
    concurrency: Annotated[int, Field(ge=1)] = 32
    """Requests that a worker has under way at a server."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds to wait for a server's answer to one request."""
    retry_for_s: Annotated[float, Field(ge=0)] = 900.0
    """Seconds for which a request is repeated while a server is busy, away or starting again."""

    @model_validator(mode="after")
    def _is_complete(self) -> CaptionConfig:
        if self.engine in ("vllm", "serve", "openai") and not self.model:
            raise ValueError(f"model is required for engine: {self.engine}")
        if self.engine == "openai" and not self.url:
            raise ValueError("url is required for engine: openai")
        if self.language not in SCRIPTS:
            raise ValueError(f"language {self.language!r} is not one of {', '.join(SCRIPTS)}")
        if not sum(self.lengths.values()):
            raise ValueError("lengths must give one of short, medium and long a weight above 0")
        check_engine_args(self.engine_args)
        try:
            load_prompts(self.prompts, self.lengths, structured=self.structured)
        except ConfigError as error:
            raise ValueError(f"prompts: {error}") from error
        return self
