"""Engines without a model: captions that came with the data, and the stand-in."""

from __future__ import annotations

from collections.abc import Sequence

from captioner.engines.base import Answer, Question
from curation.errors import CaptionError
from curation.ingest.metadata import drawn_text

STAND_IN_MODEL = "stand-in (untrained)"


class SidecarEngine:
    """Hands on the text that came with a source, one of them where several came.

    Windows of a clip all choose among their video's texts, each by a draw of its own.
    """

    varies = False
    busy_s = 0.0

    def __init__(self, column: str, seed: int = 0) -> None:
        self._column = column
        self._seed = seed

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer | CaptionError:
        text = drawn_text(question.metadata.get(self._column), question.sample_id, self._seed)
        if text is None:
            names = ", ".join(sorted(question.metadata)) or "nothing"
            return CaptionError(f"the source came without {self._column!r}; it came with {names}")
        return Answer(text, "sidecar")


class StandInEngine:
    """Describes what can be computed, and says that no model looked at the picture."""

    varies = False
    busy_s = 0.0

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        height, width = question.frames.shape[1:3]
        luma = float(question.frames.mean())
        light = "dark" if luma < 85 else "bright" if luma > 170 else "evenly lit"
        what = "an image" if question.kind == "image" else f"{question.seconds:.1f} seconds of video"
        text = f"[stand-in caption, no model looked at this] {what}, {width} by {height} pixels, {light}."
        return Answer(text, "stop", len(question.prompt.split()), len(text.split()))
