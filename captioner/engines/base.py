"""What an engine is: questions with frames in, texts out."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from curation.captioner.settings import CaptionConfig
from curation.errors import CaptionError
from curation.records import MetadataValue, SampleKind
from curation.stage import ModelRef, Resources, Service, Setup, StageConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Question:
    """One prompt with its frames.

    Attributes:
        frames: [T, H, W, 3] uint8 RGB, contiguous.
        seconds: How long the frames' span lasts; 0 for an image.
        metadata: What came with the source.
        sample_id: The sample asked about, for draws.
    """

    prompt: str
    frames: NDArray[np.uint8]
    kind: SampleKind
    seconds: float
    temperature: float = 0.0
    seed: int = 0
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    sample_id: str = ""

    @property
    def fps(self) -> float:
        """Frames per second, as shown; 1 where time says nothing."""
        return len(self.frames) / self.seconds if self.seconds > 0 else 1.0


@dataclass(frozen=True)
class Answer:
    """What came back. Tokens are the model's."""

    text: str
    finish_reason: str
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0


@dataclass(frozen=True)
class AnswerSettings:
    """What all questions of an engine have in common.

    Attributes:
        schema: JSON schema that answers follow; None for plain text.
        frames_as: "images" or "video".
    """

    max_tokens: int
    schema: Mapping[str, Any] | None = None
    frames_as: str = "images"


ROLE = "captioner"
"""Of an engine's model, in run.json and on the card."""
S = TypeVar("S", bound=StageConfig)


class Engine(abc.ABC, Generic[S]):
    """One way to get captions. Built by the driver (cheap, picklable), set up in the worker.

    One class in one file and one line in `curation/registry.py`, or one entry point of another package, add
    an engine; `stand_in.py` is the smallest complete example.

    Class attributes:
        Config: settings that no other engine has. They stand below the engine's own name, such as
            `captions.serve`; the others are `CaptionConfig`, of which an engine uses what it needs.
        version: raise it when the same settings give other captions; samples are then captioned anew.
        varies: whether it follows the prompt, and another seed can bring another answer. If not, a question
            is asked once, and the answer is not held against the prompt.
        needs_frames: whether it looks at pixels; if not, none are decoded.
        reads_metadata: whether answers depend on what came along with a source.
    """

    Config: ClassVar[type[StageConfig]] = StageConfig
    version: ClassVar[int] = 1
    varies: ClassVar[bool] = True
    needs_frames: ClassVar[bool] = True
    reads_metadata: ClassVar[bool] = False

    def __init__(self, config: CaptionConfig) -> None:
        self.config = config
        self.own: S = config.own(type(self).Config)

    @property
    def author(self) -> str:
        """Who writes the captions, for the column `model`."""
        return self.config.model

    def check(self) -> None:
        """Hold the settings against what this engine needs of them.

        Raises:
            ValueError: something is missing or may not be there; the message names the setting.
        """

    def require(self, *names: str) -> None:
        """Make sure that these settings are given.

        Raises:
            ValueError: one is not.
        """
        for name in names:
            if not getattr(self.config, name):
                raise ValueError(f"{name} is required for engine: {self.config.engine}")

    def models(self) -> Sequence[ModelRef]:
        """The models whose files are known; their role is `ROLE`."""
        return ()

    def packages(self) -> Mapping[str, str]:
        """Packages beyond the base install that it imports: name -> the extra that brings it."""
        return {}

    def distributions(self) -> Sequence[str]:
        """Installed packages that the captions come from; run.json names their versions."""
        return ()

    def resources(self) -> Resources:
        """Where it answers; by default in the worker that decodes, as one that asks a server."""
        return Resources()

    @classmethod
    def placement_settings(cls) -> set[str]:
        """Those of its own settings that say where and how fast, not what: they don't change the captions."""
        return set()

    def service(self) -> Service | None:
        """Something that must run beside the workers, such as a server; see `Stage.service`."""
        return None

    def setup(self, setup: Setup, sampling: AnswerSettings) -> None:
        """Get ready to answer. Runs once, in the worker; heavy imports belong here."""

    @abc.abstractmethod
    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        """An answer per question, in order; an error that concerns one question stands in its place.

        Raises:
            EnvironmentFault: the server is away, or refuses everything; the run stops.
            WorkerError: this process is in no state to go on.
        """
