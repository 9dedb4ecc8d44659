"""A sweep against the summary of a pipeline with each setting; what it must refuse."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from curation.execution.dataset_wide import bind
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.records import Outcome, Sample
from curation.report.summary.summary import summarize
from curation.whatif.axes import Value, parse_axes
from curation.whatif.sweep import PointYield, Sweep, sweep
from one_by_one import scan_verdicts
from random_ledgers import a_pipeline, commit_rows, list_units, random_ledger, with_settings

AXES = (
    ("images.aesthetic.min_score=8.9,9.9,null", "images.color.min_colorfulness=4:6:1"),
    ("images.resolution.min_width=63:65:1", "images.text.max_text_coverage=null,0,0.1,0.5,1"),
    ("videos.scenes.min_clip_s=0:4:0.5",),
    (
        "videos.flow.min_score=0,1,null",
        "videos.flow.max_score=null,1,0.5,0",
        "videos.color.min_colorfulness=5",
    ),
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return a_pipeline(tmp_path_factory.mktemp("pipeline"))


def settings_of(found: Sweep, at: PointYield) -> dict[str, Value]:
    return dict(zip([axis.key for axis in found.axes], at.point, strict=True))


def said(at: PointYield) -> dict[str, Any]:
    steps = {
        key: (one.num_measured, one.num_passed, one.num_rejected, one.num_failed, one.num_waiting)
        for key, one in at.steps.items()
    }
    return {
        "outcomes": {kind: dict(+counts) for kind, counts in at.outcomes.items() if +counts},
        "steps": steps,
    }


def summarized(ledger: Ledger, pipeline: Pipeline) -> dict[str, Any]:
    summary = summarize(ledger, pipeline)
    steps = {
        key: (one.measured, *(one.outcomes[outcome] for outcome in list(Outcome)[:3]), one.num_waiting)
        for key, one in summary.steps.items()
    }
    outcomes = {f"{kind}s": dict(+counts) for kind, counts in summary.samples.items() if +counts}
    return {"outcomes": outcomes, "steps": steps}


def amounts(ledger: Ledger, pipeline: Pipeline) -> tuple[int, float, int]:
    """Windows, seconds and vision tokens of what is kept, one by one."""
    windows, seconds, tokens = 0, 0.0, 0
    for _, unit in scan_verdicts(ledger, pipeline):
        for sample in (sample for source in unit for sample in source.samples):
            for leaf in sample.leaves():
                if leaf.verdict.outcome is Outcome.KEPT:
                    grid = leaf.rows["tokens"].values
                    windows += leaf is not sample
                    seconds += leaf.sample.end_s - leaf.sample.start_s
                    tokens += grid["grid_t"] * grid["grid_h"] * grid["grid_w"]
    return windows, seconds, tokens


@pytest.mark.parametrize("texts", AXES, ids=lambda texts: texts[0].partition("=")[0])
def test_every_point_equals_the_summary_of_a_pipeline_with_it(
    texts: Sequence[str], pipeline: Pipeline, tmp_path: Path
) -> None:
    """Of random ledgers with branches, missing and failed rows, windows, and sources that are gone."""
    for seed in range(2):
        ledger = random_ledger(pipeline, tmp_path / str(seed), seed, contradictions=False)
        list_units(ledger, 0, 1, *([2] if seed else []))
        found = sweep(ledger, pipeline, parse_axes(texts, pipeline))
        assert said(found.present) == summarized(ledger, pipeline)
        different = set()
        for at in found.points:
            changed = with_settings(pipeline, settings_of(found, at))
            assert said(at) == summarized(ledger, changed)
            assert (at.num_windows, pytest.approx(at.seconds), at.tokens) == amounts(ledger, changed)
            different.add(str(said(at)))
        assert len(different) > 1


@pytest.mark.parametrize("seed", [0, 1])
def test_another_population_of_a_dataset_wide_step_is_pending(tmp_path: Path, seed: int) -> None:
    """As a pipeline with the setting has it, which finds no rows of its own population."""
    aesthetic = {"weights": "stand-in", "head": "stand-in", "head_sha256": None, "min_score": 9.0}
    images = {"filters": ["aesthetic", "phash", "duplicates", "resolution"], "aesthetic": aesthetic}
    unbound = a_pipeline(tmp_path, images=images)
    ledger = random_ledger(unbound, tmp_path / "out", seed, contradictions=False)
    pipeline = bind(unbound, ledger)
    step = pipeline.step_of("images.duplicates")
    assert step is not None
    for unit in ledger.units():
        images_of = [Sample.of_image(source) for source in ledger.sources(unit) if source.kind == "image"]
        commit_rows(random.Random(seed), ledger, unit, step, images_of)
    texts = ["images.aesthetic.min_score=8,9,10", "images.duplicates.min_distance=0,1,2"]
    found = sweep(ledger, pipeline, parse_axes(texts, pipeline))
    measured = set()
    for at in found.points:
        changed = bind(with_settings(unbound, settings_of(found, at)), ledger)
        assert said(at) == summarized(ledger, changed)
        measured.add(at.steps["images.duplicates"].num_measured > 0)
    assert measured == {True, False}
    assert found.populations_differ == ["images.duplicates"]
