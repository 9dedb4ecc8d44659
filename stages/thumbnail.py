"""Keeps a small picture of every sample for the report. Rejects nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from curation.records import Sample, SampleKind
from curation.stage import Column, Media, Stage, StageConfig, View


class ThumbnailConfig(StageConfig):
    """Settings of the thumbnails."""

    short_side: Annotated[int, Field(ge=16, le=512)] = 96
    """Short side in pixels."""
    quality: Annotated[int, Field(ge=1, le=95)] = 75
    """JPEG quality."""


class ThumbnailStage(Stage[ThumbnailConfig]):
    """Encodes the image, or the frame in the middle of the clip."""

    name = "thumbnail"
    columns = {
        "thumbnail": Column(pa.binary(), "JPEG file.", large=True),
    }
    Config = ThumbnailConfig

    def view(self, kind: SampleKind) -> View:
        return View(count=1, short_side=self.config.short_side, halved=kind == "image")

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        from PIL import Image

        rows = []
        for item in media:
            file = io.BytesIO()
            Image.fromarray(item.pixels[0]).save(file, "JPEG", quality=self.config.quality)
            rows.append({"thumbnail": file.getvalue()})
        return rows
