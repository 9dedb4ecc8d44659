"""Drops pictures that are too small, from the header alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from curation.records import Sample
from curation.stage import Column, KeepMin, Media, Stage, StageConfig


class ResolutionConfig(StageConfig):
    """Settings of the resolution filter. Emu3: both sides at least 512."""

    min_width: Annotated[int, KeepMin("width"), Field(ge=1)] | None = 512
    """Least width in pixels, upright."""
    min_height: Annotated[int, KeepMin("height"), Field(ge=1)] | None = 512
    """Least height in pixels, upright."""


class ResolutionStage(Stage[ResolutionConfig]):
    """Takes the size from the header."""

    name = "resolution"
    columns = {
        "width": Column(pa.int32(), "Pixels, after rotation."),
        "height": Column(pa.int32(), "Pixels, after rotation."),
    }
    batch_size = 256
    Config = ResolutionConfig

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [{"width": item.source.width, "height": item.source.height} for item in media]
