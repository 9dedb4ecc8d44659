"""What an engine is: questions with frames in, texts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from curation.errors import CaptionError
from curation.records import MetadataValue, SampleKind

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
class Sampling:
    """What all questions of an engine have in common.

    Attributes:
        schema: JSON schema that answers follow; None for plain text.
        frames_as: "images" or "video".
    """

    max_tokens: int
    schema: Mapping[str, Any] | None = None
    frames_as: str = "images"


class Engine(Protocol):
    """Answers questions, many at once.

    Attributes:
        varies: Whether another seed can bring another answer.
        busy_s: Seconds with at least one question under way, since the start.
    """

    varies: bool
    busy_s: float

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        """An answer per question, in order; an error that concerns one question stands in its place.

        Raises:
            EnvironmentFault: the server is away, or refuses everything; the run stops.
            WorkerError: this process is in no state to go on.
        """
