"""What a card says in numbers of the samples that are kept: counted as they go by, some units at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.report.summary.histogram import Histogram

PIXELS_PER_CODE = 8
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MAX_LICENSES = 1000
"""Licences that are told apart; with more of them, every further one counts as `(other)`."""
OTHER = "(other)"


@dataclass
class SampleStatistics:
    """Counts over kept samples.

    Attributes:
        samples: Kind -> samples.
        clip_s: Seconds of all clips together.
        licenses: License -> samples.
        resolutions: (kind, width, height in pixels as tokenized) -> samples.
        caption_models: Who wrote the captions -> samples.
        caption_length: Characters of the captions.
        scores: Exported number -> its values.
    """

    samples: Counter[str] = field(default_factory=Counter)
    clip_s: float = 0.0
    licenses: Counter[str] = field(default_factory=Counter)
    resolutions: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    caption_models: Counter[str] = field(default_factory=Counter)
    caption_length: Histogram = field(default_factory=Histogram)
    scores: dict[str, Histogram] = field(default_factory=dict)

    def add(self, kept: pa.Table, licenses: pa.Array | pa.ChunkedArray, scores: Iterable[str]) -> None:
        """Count samples, with their licenses and the exported columns `scores`, of which numbers count."""
        self.samples.update(_counts(kept["kind"]))
        self.clip_s += pc.sum(pc.subtract(kept["end_s"], kept["start_s"])).as_py() or 0.0
        self.caption_models.update(_counts(kept["caption_model"]))
        self._add_licenses(_counts(licenses))
        shapes = kept.group_by(["kind", "grid_w", "grid_h"], use_threads=False).aggregate([([], "count_all")])
        for row in shapes.to_pylist():
            size = row["grid_w"] * PIXELS_PER_CODE, row["grid_h"] * PIXELS_PER_CODE
            self.resolutions[row["kind"], *size] += row["count_all"]
        self.caption_length.add(_numbers(pc.utf8_length(kept["caption"])))
        for name in scores:
            if pa.types.is_floating(kept[name].type) or pa.types.is_integer(kept[name].type):
                values = _numbers(kept[name])
                if np.isfinite(values).any():
                    self.scores.setdefault(name, Histogram()).add(values)

    def _add_licenses(self, found: Counter[str]) -> None:
        for name, number in found.items():
            is_told_apart = name in self.licenses or len(self.licenses) < MAX_LICENSES
            self.licenses[name if is_told_apart else OTHER] += number


def quantiles(histogram: Histogram) -> list[float]:
    """The values at `QUANTILES`, each less than a bin too low; the first and the last are exact."""
    edges = np.ldexp(histogram.start + np.arange(len(histogram.counts)) + 0.0, histogram.exponent)
    places = np.searchsorted(histogram.counts.cumsum(), np.array(QUANTILES) * histogram.total)
    found = edges[np.minimum(places, len(edges) - 1)].clip(histogram.low, histogram.high)
    return [histogram.low, *(float(value) for value in found[1:-1]), histogram.high]


def _counts(column: pa.Array | pa.ChunkedArray) -> Counter[str]:
    counted = pc.value_counts(column.drop_null())
    return Counter({row["values"]: row["counts"] for row in counted.to_pylist()})


def _numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
