"""Representatives: ranks by hand."""

from __future__ import annotations

import numpy as np
import pytest

from curation.stages.representatives import RepresentativesConfig, RepresentativesStage
from generated import population

CLUSTER = [3, 0, 3, 3, 0, 7]
DISTANCE = [0.5, 0.1, 0.2, 0.5, 0.05, 0.9]
SCORE = [5.0, 4.0, 6.0, 7.0, 3.0, 1.0]


def stage(**settings):
    return RepresentativesStage(RepresentativesConfig(**settings))


def ranks(number=6, **settings):
    table = population(6, cluster_id=CLUSTER, cluster_distance=DISTANCE, aesthetic_score=SCORE).slice(
        0, number
    )
    return stage(**settings).measure_all(table)["cluster_rank"].to_pylist()


def test_nearest_to_the_center_ranks_first_and_of_equals_the_smaller_id():
    assert ranks() == [2, 2, 1, 3, 1, 1]


def test_highest_score_ranks_first():
    assert ranks(by="aesthetic_score") == [3, 1, 2, 1, 2, 1]
    assert ranks(by="aesthetic_score", first="lowest") == [1, 2, 2, 3, 1, 1]


@pytest.mark.parametrize(("limit", "kept"), [(1, 3), (2, 5), (3, 6), (None, 6)])
def test_so_many_of_each_cluster_stay(limit, kept):
    chosen = stage(max_rank=limit)
    reasons = [chosen.reject_reason({"cluster_rank": rank}) for rank in ranks()]
    assert reasons.count(None) == kept
    assert set(reasons) <= {None, "cluster_rank_above_max"}


def test_what_it_ranks_by_is_read():
    assert stage().inputs() == ("cluster_id", "cluster_distance")
    assert stage(by="aesthetic_score").inputs() == ("cluster_id", "aesthetic_score")


def test_one_sample():
    assert ranks(1) == [1]


def test_ranks_are_one_to_the_size_of_each_cluster():
    random = np.random.default_rng(0)
    cluster, distance = random.integers(0, 20, 500), random.uniform(size=500)
    table = population(500, cluster_id=cluster, cluster_distance=distance)
    rank = stage().measure_all(table)["cluster_rank"].to_numpy()
    for number in range(20):
        own = cluster == number
        assert sorted(rank[own]) == list(range(1, own.sum() + 1))
        assert np.all(np.diff(distance[own][np.argsort(rank[own])]) >= 0)
