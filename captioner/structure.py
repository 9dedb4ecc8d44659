"""Captions in parts: the JSON that is asked for, and the text that is composed of it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_CHARS = 1200
"""Longest part; without a bound a grammar lets a model go on for ever."""

_ENDS = ".!?\u3002\uff01\uff1f"
"""Ends of sentences, the last three Chinese and Japanese."""

ShortText = Annotated[str, Field(max_length=MAX_CHARS)]


class Parts(BaseModel):
    """What a structured caption tells apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: ShortText
    """Who or what is seen, and where."""
    motion: ShortText
    """What moves and how."""
    camera: ShortText
    """Movement, angle and distance."""
    style: ShortText
    """Medium, light, colors, mood."""

    @property
    def caption(self) -> str:
        """The parts as one text."""
        texts = (" ".join(text.split()) for text in (self.subject, self.motion, self.camera, self.style))
        return " ".join(text if text[-1] in _ENDS else f"{text}." for text in texts if text)


NAMES = tuple(Parts.model_fields)


def schema() -> dict[str, Any]:
    """The JSON schema that engines hold the model to."""
    found = Parts.model_json_schema()
    for name in NAMES:
        found["properties"][name].pop("title", None)
    return {key: found[key] for key in ("type", "properties", "required", "additionalProperties")}


def parse(text: str) -> Parts | None:
    """The parts in a model's answer; None if it does not follow the schema."""
    try:
        return Parts.model_validate_json(text)
    except ValidationError:
        return None
