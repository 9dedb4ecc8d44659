"""Captions that came with the data."""

from __future__ import annotations

from collections.abc import Sequence

from curation.captioner.engines.base import Answer, Engine, Question
from curation.errors import CaptionError
from curation.ingest.metadata import drawn_text
from curation.stage import StageConfig


class SidecarEngine(Engine[StageConfig]):
    """Hands on the text that came with a source, one of them where several came.

    Windows of a clip all choose among their video's texts, each by a draw of its own.
    """

    varies = False
    needs_frames = False
    reads_metadata = True

    @property
    def author(self) -> str:
        return f"sidecar: {self.config.column}"

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer | CaptionError:
        text = drawn_text(question.metadata.get(self.config.column), question.sample_id, self.config.seed)
        if text is None:
            names = ", ".join(sorted(question.metadata)) or "nothing"
            return CaptionError(f"the source came without {self.config.column!r}; it came with {names}")
        return Answer(text, "sidecar")
