"""Drops samples by the mean of several scores, as Emu3 chose images for its quality fine-tuning.

Emu3 took the mean of three preference scores (HPSv2.1, MPS, LAION aesthetic). Their scales differ, so
by default each score counts as a rank: the share of the samples that it puts below or level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from curation.dataset_stage import DatasetStage
from curation.stage import Column, KeepMin, StageConfig


class MeanScoreConfig(StageConfig):
    """Settings of the mean."""

    min_score: Annotated[float, KeepMin("mean_score")] | None = 0.5
    """Least mean: with ranks 0..1, else on the scores' own scale."""
    scores: Annotated[list[str], Field(min_length=1)] = ["aesthetic_score"]
    """Columns of stages before it in the rule, each more the better."""
    scale: Literal["rank", "own"] = "rank"
    """`rank`: share of the samples that a score puts below or level; `own`: the numbers as they are."""


class MeanScoreStage(DatasetStage[MeanScoreConfig]):
    """Averages scores."""

    name = "mean_score"
    columns = {
        "mean_score": Column(
            pa.float64(),
            "Mean over the scores that the settings name; with ranks above 0 and at most 1.",
            exported=True,
        ),
    }
    Config = MeanScoreConfig

    def inputs(self) -> Sequence[str]:
        return tuple(dict.fromkeys(self.config.scores))

    def measure_all(self, population: pa.Table) -> pa.Table:
        columns = [population[name].to_numpy().astype(np.float64) for name in self.inputs()]
        scaled = [_ranks(values) if self.config.scale == "rank" else values for values in columns]
        return pa.table({"mean_score": np.mean(scaled, axis=0)})


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the values that are not greater, for each."""
    ordered = np.sort(values)
    return np.searchsorted(ordered, values, side="right") / max(len(values), 1)
