"""A stage as a third party has it: a file of its own, found by `stages:` in a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curation.records import Sample, SampleKind
from curation.stage import Column, Media, Stage, StageConfig, View


class SharpnessStage(Stage[StageConfig]):
    """Measures how much neighboring pixels differ."""

    name = "sharpness"
    columns = {
        "sharpness": Column(
            pa.float64(), "Mean difference between neighboring pixels, 0..255.", exported=True
        ),
        "edges": Column(pa.binary(), "The differences themselves, uint8.", large=True),
    }
    Config = StageConfig

    def view(self, kind: SampleKind) -> View:
        return View(count=1, short_side=32)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        differences = [np.abs(np.diff(item.pixels.astype(np.int16), axis=2)) for item in media]
        return [
            {"sharpness": float(found.mean()), "edges": found.astype(np.uint8).tobytes()}
            for found in differences
        ]
