"""Keeps the first few samples of every cluster, by how near its center they are or by a score.

Stands behind `clusters`, and ranks what that keeps. How many stay is a threshold on the rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.dataset_stage import DatasetStage
from curation.stage import Column, KeepMax, StageConfig


class RepresentativesConfig(StageConfig):
    """Settings of the representatives."""

    max_rank: Annotated[int, KeepMax("cluster_rank"), Field(ge=1)] | None = 20
    """Samples that stay of each cluster."""
    by: Annotated[str, Field(min_length=1)] = "cluster_distance"
    """Column that ranks the samples of a cluster, such as aesthetic_score."""
    first: Literal["lowest", "highest"] | None = None
    """Which end of that column ranks first; by default the lowest distance, the highest of others."""


class RepresentativesStage(DatasetStage[RepresentativesConfig]):
    """Ranks the samples of every cluster."""

    name = "representatives"
    columns = {
        "cluster_rank": Column(
            pa.int32(),
            "Place among the samples of its cluster, from 1; of equals the smaller sample id first.",
        ),
    }
    Config = RepresentativesConfig

    def inputs(self) -> Sequence[str]:
        return tuple(dict.fromkeys(("cluster_id", self.config.by)))

    def measure_all(self, population: pa.Table) -> pa.Table:
        cluster = population["cluster_id"].to_numpy()
        value = population[self.config.by].to_numpy().astype(np.float64)
        first = self.config.first or ("lowest" if self.config.by == "cluster_distance" else "highest")
        sign = 1 if first == "lowest" else -1
        order = np.lexsort((np.arange(len(cluster)), sign * value, cluster))
        starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
        sizes = np.diff(starts, append=len(cluster))
        rank = np.empty(len(cluster), np.int32)
        rank[order] = np.arange(len(cluster)) - np.repeat(starts, sizes) + 1
        return pa.table({"cluster_rank": rank})
