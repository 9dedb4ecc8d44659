"""Settings of the captioner."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    PrivateAttr,
    create_model,
    model_validator,
)

from curation.captioner.gate import SCRIPTS, GateConfig
from curation.captioner.prompt import Length, load_prompts
from curation.errors import ConfigError
from curation.registry import ENGINES
from curation.stage import Location, StageConfig


def _engine_class(name: str) -> Any:
    try:
        return ENGINES.load(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _engine_name(name: str) -> str:
    _engine_class(name)
    return name


def _environment_name(text: str) -> str:
    if not text.isidentifier():
        # Most likely it is the key itself, so it is not repeated.
        raise ValueError("is to name an environment variable that holds the key, such as OPENAI_API_KEY")
    return text


EnvironmentName = Annotated[str, AfterValidator(_environment_name)]


class CaptionConfig(StageConfig):
    """Settings of the captioner. Emu3: 12 frames, windows of 10-20 s for clips of 20 s and more."""

    engine: Annotated[str, AfterValidator(_engine_name)]
    """Who writes the captions, by its name in the registry (`captioner/engines`). What only one engine has to
    know stands in a section with the engine's name; the settings here are for every engine that uses them."""
    model: Location = ""
    """A hub name or folder; for a server that others run, the name that it knows."""
    revision: str | None = None
    """Revision of a hub name; its newest by default. Of a server that others run, what it has, if known."""
    url: Annotated[Location, Field(pattern="^https?://")] | None = None
    """Base URL of a server that others run, such as http://127.0.0.1:8000/v1."""
    api_key_env: EnvironmentName = "OPENAI_API_KEY"
    """Environment variable of the workers that holds that server's key, if it wants one."""
    column: str = "caption"
    """Name of the text that came with a source, where captions are taken from there."""

    num_frames: Annotated[int, Field(ge=1, le=256)] = 12
    """Frames of a window, at the centers of equal parts."""
    short_side: Annotated[int, Field(ge=28)] = 448
    """Short side in pixels of the frames, never enlarged."""
    frames_as: Literal["images", "video"] = "images"
    """How a window is shown: as images in order, or as one video (fewer tokens; not every server can)."""
    image_format: Literal["jpeg", "png"] = "jpeg"
    """How frames travel to a server: JPEG (quality 92) is a tenth of PNG, PNG is exact."""
    split_from_s: Annotated[float, Field(gt=0)] = 20.0
    """Clips at least this long are captioned in windows."""
    max_window_s: Annotated[float, Field(gt=0)] = 20.0
    """Longest window in seconds."""

    prompts: Location | None = None
    """Folder of prompt files like those in captioner/prompts, which are the default; also in a bucket."""
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
    """Number type of the weights: auto, bfloat16, float16, float32."""
    quantization: str | None = None
    """Name of a quantization, such as fp8; by default what the weights say."""
    max_pixels: Annotated[int, Field(ge=1)] | None = None
    """Pictures are scaled down to this many pixels: one frame's with Qwen2.5-VL, a clip's with Qwen3-VL."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """GPUs that one model spans."""
    engine_args: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of the engine that change speed, not texts, such as {max_num_seqs: 64}; none that
    run code from elsewhere."""
    concurrency: Annotated[int, Field(ge=1)] = 32
    """Requests that a worker has under way at a server."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds to wait for a server's answer to one request."""
    retry_for_s: Annotated[float, Field(ge=0)] = 900.0
    """Seconds for which a request is repeated while a server is busy, away or starting again."""

    _own: StageConfig = PrivateAttr(default_factory=StageConfig)
    """The section with the engine's name."""

    def own(self, kind: type[StageConfig]) -> Any:
        """The section with the engine's name, as `kind`; its defaults where there is none."""
        return self._own if isinstance(self._own, kind) else kind()

    @classmethod
    def known_keys(cls) -> Collection[str]:
        return {*cls.model_fields, *ENGINES}

    @classmethod
    def section_class(cls, key: str) -> type[StageConfig] | None:
        if key in ENGINES and key not in cls.model_fields:
            section: type[StageConfig] = ENGINES.load(key).Config
            return section
        return super().section_class(key)

    @model_validator(mode="wrap")
    @classmethod
    def _check_engine(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Sections of engines are checked by their own classes, and everything together by the chosen engine.

        The section of an engine that is not chosen may stay, so that another one can be tried.
        """
        if not isinstance(data, Mapping):
            return handler(data)
        named = tuple(key for key in data if key in ENGINES and key not in cls.model_fields)
        # One check of everything, so that all problems are told at once.
        every = _with_sections(named).model_validate(data) if named else None
        config = handler({key: value for key, value in data.items() if key not in named})
        if config.engine in named:
            config._own = getattr(every, config.engine)
        _engine_class(config.engine)(config).check()
        return config

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.language not in SCRIPTS:
            raise ValueError(f"language {self.language!r} is not one of {', '.join(SCRIPTS)}")
        if not sum(self.lengths.values()):
            raise ValueError("lengths must give one of short, medium and long a weight above 0")
        try:
            load_prompts(self.prompts, self.lengths, structured=self.structured)
        except ConfigError as error:
            raise ValueError(f"prompts: {error}") from error
        return self


class _SectionedConfig(CaptionConfig):
    """The settings, with sections of engines as fields; what only the engine knows is not looked at."""

    @model_validator(mode="wrap")
    @classmethod
    def _check_engine(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return handler(data)


@functools.cache
def _with_sections(names: tuple[str, ...]) -> type[_SectionedConfig]:
    sections: dict[str, Any] = {name: (_engine_class(name).Config, ...) for name in names}
    return create_model("SectionedConfig", __base__=_SectionedConfig, **sections)
