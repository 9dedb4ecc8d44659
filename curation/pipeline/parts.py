"""What the numbers of a step depend on, part by part: its fingerprint is their hash.

A run records the parts, so that the next one can say which of them is another, and why rows are measured
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from curation.records import stable_id


@dataclass(frozen=True)
class StepParts:
    """The parts of a step's fingerprint.

    Attributes:
        stage: Name of the stage.
        version: Version number of the stage's code.
        columns: Names of its columns, sorted.
        settings: The settings that its numbers depend on, without secrets.
        models: Role -> revision of the model.
        pixels: How the pixels that it looks at are made, where that may change.
    """

    stage: str = ""
    version: int = 1
    columns: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    pixels: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Changes when any part does."""
        return stable_id(
            self.stage,
            self.version,
            list(self.columns),
            sorted(self.settings.items()),
            sorted(self.models.items()),
            *self.pixels,
        )
