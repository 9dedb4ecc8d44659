"""A sweep against the summary of a pipeline with each setting; what it must refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from curation.config import parse_config
from curation.ledger import Ledger
from curation.pipeline import Pipeline, build_pipeline
from curation.records import Outcome
from curation.report.summary.summary import summarize
from curation.whatif.axes import Value, parse_axes
from curation.whatif.sweep import PointYield, Sweep, sweep
from random_ledgers import a_pipeline, list_units, random_ledger

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


def with_settings(pipeline: Pipeline, settings: dict[str, Value]) -> Pipeline:
    """The pipeline of a configuration with other thresholds, built anew."""
    data: dict[str, Any] = dict(pipeline.config.resolved)
    for key, value in settings.items():
        section, stage, name = key.split(".")
        data[section] = {**data[section], stage: {**data[section].get(stage, {}), name: value}}
    return build_pipeline(parse_config(data))


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
            assert said(at) == summarized(ledger, with_settings(pipeline, settings_of(found, at)))
            different.add(str(said(at)))
        assert len(different) > 1
