"""Means of scores, by hand and against pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from curation.stages.mean_score import MeanScoreConfig, MeanScoreStage
from generated import population

SCORES = {"aesthetic_score": [4.0, 6.0, 5.0, 6.0], "hps_score": [0.30, 0.10, 0.20, 0.25]}


def means(scores=SCORES, **settings):
    stage = MeanScoreStage(MeanScoreConfig(scores=list(scores), **settings))
    number = len(next(iter(scores.values())))
    return stage.measure_all(population(number, **scores))["mean_score"].to_pylist()


def test_ranks_by_hand():
    # aesthetic: 1/4, 4/4, 2/4, 4/4; hps: 4/4, 1/4, 2/4, 3/4.
    assert means() == [0.625, 0.625, 0.5, 0.875]
    # A third: 3/4, 3/4, 3/4, 4/4.
    three = means({**SCORES, "flow_score": [0.0, 0.0, 0.0, 9.0]})
    assert three == pytest.approx([2 / 3, 2 / 3, 1.75 / 3, 2.75 / 3])


def test_scores_as_they_are():
    assert means(scale="own") == pytest.approx([2.15, 3.05, 2.6, 3.125])


def test_scales_of_scores_do_not_matter():
    assert means({**SCORES, "hps_score": [100 * value - 7 for value in SCORES["hps_score"]]}) == means()


def test_ranks_are_those_of_pandas():
    values = np.random.default_rng(0).integers(0, 50, 300) / 7
    expected = pd.Series(values).rank(method="max", pct=True).tolist()
    assert means({"flow_score": values}) == pytest.approx(expected)


def test_threshold_is_on_the_mean():
    stage = MeanScoreStage(MeanScoreConfig(min_score=0.625))
    assert [stage.reject_reason({"mean_score": mean}) for mean in (0.625, 0.5)] == [
        None,
        "mean_score_below_min",
    ]


def test_each_score_is_read_once():
    stage = MeanScoreStage(MeanScoreConfig(scores=["aesthetic_score", "hps_score", "aesthetic_score"]))
    assert stage.inputs() == ("aesthetic_score", "hps_score")
