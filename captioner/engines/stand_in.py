"""The stand-in for a captioner: it needs no weights, and runs anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from curation.captioner.engines.base import ROLE, Answer, Engine, Question
from curation.errors import CaptionError
from curation.pipeline.models import STAND_IN
from curation.stage import ModelRef, StageConfig


class StandInEngine(Engine[StageConfig]):
    """Describes what can be computed, and says that no model looked at the picture."""

    varies = False
    author = "stand-in (untrained)"

    def models(self) -> Sequence[ModelRef]:
        return (ModelRef(ROLE, STAND_IN, self.config.revision, stand_in=True),)

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        height, width = question.frames.shape[1:3]
        luma = float(question.frames.mean())
        light = "dark" if luma < 85 else "bright" if luma > 170 else "evenly lit"
        what = "an image" if question.kind == "image" else f"{question.seconds:.1f} seconds of video"
        text = f"[stand-in caption, no model looked at this] {what}, {width} by {height} pixels, {light}."
        return Answer(text, "stop", len(question.prompt.split()), len(text.split()))
