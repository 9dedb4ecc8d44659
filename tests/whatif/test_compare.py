"""A comparison against a join by hand, of one output under two settings and of outputs with other units."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.storage import open_storage
from curation.whatif.compare import CHANGED, Comparison
from curation.whatif.differences import print_comparison
from curation.whatif.sides import ComparedSide, measured_otherwise, settings_in
from one_by_one import scan_verdicts
from random_ledgers import a_pipeline, random_ledger, with_settings

SETTINGS = {
    "images.aesthetic.min_score": 8.9,
    "videos.flow.max_score": 0.5,
    "images.resolution.min_width": 65,
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return a_pipeline(tmp_path_factory.mktemp("pipeline"))


def ends(side: ComparedSide) -> dict[str, tuple[Any, ...]]:
    """Id of each sample, and of each source without any -> how it ends, one by one."""
    found = {}
    for _, unit in scan_verdicts(side.ledger, side.pipeline):
        for source in unit:
            judged = [(sample.sample.sample_id, sample.verdict) for sample in source.samples]
            for name, verdict in judged or [(source.source.source_id, source.verdict)]:
                step = verdict.step or verdict.needs
                found[name] = (str(verdict.outcome), verdict.reason, step.key if step else None)
    return found


def by_hand(
    before: ComparedSide, after: ComparedSide
) -> tuple[dict[str, tuple[Any, ...]], Counter[tuple[str, str]]]:
    one, other = ends(before), ends(after)
    absent = ("absent", None, None)
    pairs = {name: (one.get(name, absent), other.get(name, absent)) for name in {*one, *other}}
    changed = {name: (*a, *b) for name, (a, b) in pairs.items() if a != b}
    return changed, Counter((a[0], b[0]) for a, b in pairs.values())


def compared(before: ComparedSide, after: ComparedSide) -> tuple[dict[str, tuple[Any, ...]], Comparison]:
    found = Comparison(before, after)
    rows = pa.concat_tables([CHANGED.empty_table(), *found.changed()]).to_pylist()
    columns = CHANGED.names[4:]
    changed = {row["sample_id"]: tuple(row[name] for name in columns) for row in rows}
    assert len(changed) == len(rows)
    return changed, found


def other_units(pipeline: Pipeline, ledger: Ledger, folder: Path, seed: int) -> Ledger:
    """The same rows in the opposite order of units, of a few sources fewer."""
    found, draw, units = Ledger(open_storage(str(folder))), random.Random(seed), ledger.units()
    for unit in units:
        sources = [source for source in ledger.sources(unit) if draw.random() < 0.8]
        found.commit_sources(len(units) - 1 - unit, sources)
        for step in pipeline.steps():
            rows = ledger.rows(step.name, step.fingerprint, unit)
            found.commit(step.name, step.fingerprint, len(units) - 1 - unit, rows, step.stage.columns)
    return found


def pairs(pipeline: Pipeline, folder: Path) -> Iterator[tuple[ComparedSide, ComparedSide]]:
    changed = with_settings(pipeline, SETTINGS)
    for seed in range(3):
        ledger = random_ledger(pipeline, folder / str(seed), seed, contradictions=False)
        yield ComparedSide("a", pipeline, ledger), ComparedSide("b", changed, ledger)
        moved = other_units(pipeline, ledger, folder / f"moved{seed}", seed)
        yield ComparedSide("a", pipeline, ledger), ComparedSide("b", changed, moved)
        yield ComparedSide("a", pipeline, moved), ComparedSide("b", pipeline, ledger)


def test_it_equals_a_join_by_hand(pipeline: Pipeline, tmp_path: Path) -> None:
    kinds: Counter[tuple[str, str]] = Counter()
    for before, after in pairs(pipeline, tmp_path):
        changed, found = compared(before, after)
        expected, outcomes = by_hand(before, after)
        assert changed == expected
        assert found.outcomes == outcomes
        assert found.changes.total() == len(expected)
        assert all(found.examples[change] for change in found.changes)
        kinds.update(outcomes)
    assert len(kinds) > 8


def test_nothing_differs_from_itself(pipeline: Pipeline, tmp_path: Path) -> None:
    side = ComparedSide("a", pipeline, random_ledger(pipeline, tmp_path, 5, contradictions=False))
    changed, found = compared(side, side)
    assert (changed, list(measured_otherwise(side, side))) == ({}, [])
    assert found.outcomes.total() == len(ends(side))


def windows_of(side: ComparedSide) -> int:
    """Windows of long kept clips, one by one."""
    samples = (
        one for _, unit in scan_verdicts(side.ledger, side.pipeline) for it in unit for one in it.samples
    )
    return sum(leaf.sample.sample_id != one.sample.sample_id for one in samples for leaf in one.leaves())


def test_it_says_that_clips_count_whole(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = random_ledger(pipeline, tmp_path, 5, contradictions=False)
    strict = with_settings(pipeline, {"videos.flow.max_score": 0.2})
    before, after = ComparedSide("a", pipeline, ledger), ComparedSide("b", strict, ledger)
    numbers = windows_of(before), windows_of(after)
    assert numbers[0] > numbers[1] > 0
    _, found = compared(before, after)
    print_comparison(Console(width=200), found)
    said = capsys.readouterr().out
    assert "in windows counts once here, and in status by its windows: " in said
    assert f": {numbers[0]} before, {numbers[1]} after" in said


def test_other_measurements_are_said(pipeline: Pipeline, tmp_path: Path) -> None:
    ledger = random_ledger(pipeline, tmp_path, 6, contradictions=False)
    other = with_settings(pipeline, {"videos.flow.fps": 1.0})
    said = list(measured_otherwise(ComparedSide("a", pipeline, ledger), ComparedSide("b", other, ledger)))
    assert said == [
        "videos.flow was measured with other settings, or by another version, so its numbers differ"
    ]


def test_settings_are_told_apart_from_the_commas_in_them() -> None:
    assert settings_in("a.b=1,c.d=[1,2],e=x") == ["a.b=1", "c.d=[1,2]", "e=x"]
