"""Drops pictures that are too small, from the header alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from curation.records import Sample
from curation.stage import KeepMin, Media, Stage, StageConfig


class ResolutionConfig(StageConfig):
    """Settings of the resolution filter. Emu3: both sides at least 512."""

    min_width: Annotated[int, KeepMin("width"), Field(ge=1)] | None = 512
    """Least width in pixels, upright."""
    min_height: Annotated[int, KeepMin("height"), Field(ge=1)] | None = 512
    """Least height in pixels, upright."""


class ResolutionStage(Stage[ResolutionConfig]):
    """Takes the size from the header.

    Columns:
        width, height: Pixels, after rotation.
    """

    name = "resolution"
    columns = {"width": pa.int32(), "height": pa.int32()}
    batch_size = 256
    Config = ResolutionConfig

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [{"width": item.source.width, "height": item.source.height} for item in media]
