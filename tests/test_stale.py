"""Rows that were made of a caption follow the caption, whichever configuration notices that it changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curation.execution.standing import Standing
from curation.ledger.unit_state import RecomputePolicy
from datasets_media import Bench, write_photo


def data_of(tmp_path: Path, **captions: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "stand_ins": "allow",
        "images": {"filters": ["resolution"], "resolution": {"min_width": 16, "min_height": 16}},
        "captions": captions,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos with a caption each."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(2):
        write_photo(folder / f"{seed}.jpg", seed)
        (folder / f"{seed}.txt").write_text(f"the first caption of photo {seed}, which shows something")
    return folder


def captions_of(bench: Bench) -> set[str]:
    return {values["caption"] for values, _ in bench.rows("captions").values()}


@pytest.mark.parametrize("merged", [False, True])
def test_a_caption_that_changed_while_another_configuration_ran_is_taken_over(
    folder: Path, tmp_path: Path, merged: bool
) -> None:
    sidecar = Bench(data_of(tmp_path, engine="sidecar"))
    sidecar.run()
    before = captions_of(sidecar)
    assert len(before) == 2
    if merged:
        sidecar.ledger.compact([(step.name, step.fingerprint) for step in sidecar.pipeline.steps()])
    second = "the second caption of photo 0, which is longer than the first one was"
    (folder / "0.txt").write_text(second)
    Bench(data_of(tmp_path, engine="stand-in")).run()
    again = Bench(data_of(tmp_path, engine="sidecar"))
    metrics = again.run()
    assert metrics.rows["captions"] == 1
    assert captions_of(again) == {second, *(text for text in before if "photo 1" in text)}


def test_rows_of_this_run_are_not_made_again(folder: Path, tmp_path: Path) -> None:
    bench = Bench(data_of(tmp_path, engine="sidecar"))
    bench.run()
    policy = RecomputePolicy(frozenset({"resolution"}), only_failed=False)
    standing = Standing(bench.ledger, recompute=policy)
    (old,) = standing.tasks(bench.pipeline, "filter", {"images.resolution"})
    standing.changed([old])
    assert len(standing.tasks(bench.pipeline, "filter", {"images.resolution"})) == 1
    standing.changed([new_task(old)])
    assert standing.tasks(bench.pipeline, "filter", {"images.resolution"}) == []


def new_task(task: Any) -> Any:
    """A task that filters the sources of its unit as they are read."""
    return replace(task, sources=("some",))
