"""Which samples a report shows, against a search one by one; what the gallery shows of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curation.ledger import Ledger
from curation.ledger.unit_state import SampleVerdict
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, steps_of
from curation.records import Outcome
from curation.report.gallery.samples import EACH_ERROR, EACH_OUTCOME, EACH_SIDE, Border, GalleryBuilder
from one_by_one import scan_verdicts
from random_ledgers import NUM_UNITS, a_pipeline, list_units, random_ledger


class Search:
    """Every value that a threshold looks at, and every leaf, found row by row."""

    def __init__(self, ledger: Ledger, pipeline: Pipeline) -> None:
        self.values: dict[tuple[str, str], list[tuple[float, str, str | None]]] = {}
        self.outcomes: dict[Any, list[str]] = {}
        self.errors: dict[str, list[str]] = {}
        enrich = {step.key for step in steps_of(pipeline.enrich)}
        steps = {step.key: step for step in pipeline.steps()}
        for _, judged in scan_verdicts(ledger, pipeline):
            for source in judged:
                for sample in source.samples:
                    self.rows(sample, [step for key, step in steps.items() if key not in enrich])
                    for leaf in sample.leaves():
                        self.rows(leaf, [step for key, step in steps.items() if key in enrich])
                        self.leaf(leaf)

    def rows(self, judged: SampleVerdict, steps: list[Step]) -> None:
        for step in steps:
            row = judged.rows.get(step.key)
            if row is None or not row.ok:
                continue
            for name, mark in step.stage.thresholds().items():
                value = row.values[mark.column]
                if value is not None and getattr(step.stage.config, name) is not None:
                    found = self.values.setdefault((step.key, name), [])
                    found.append((value, judged.sample.sample_id, judged.verdict.reason))

    def leaf(self, leaf: SampleVerdict) -> None:
        key = leaf.sample.kind, leaf.verdict.outcome
        self.outcomes.setdefault(key, []).append(leaf.sample.sample_id)
        if leaf.verdict.outcome is Outcome.FAILED:
            self.errors.setdefault(str(leaf.verdict.reason), []).append(leaf.sample.sample_id)

    def nearest(self, border: Border, *, passed: bool) -> list[tuple[float, str, str | None]]:
        """By comparing with the threshold as its setting's name says."""
        least = border.setting.startswith("min") or border.sign == "≥"
        found = [
            (value, sample_id, reason)
            for value, sample_id, reason in self.values.get((border.step, border.setting), [])
            if passed == (value >= border.threshold if least else value <= border.threshold)
        ]
        return sorted(found, key=lambda one: (abs(one[0] - border.threshold), one[1]))


def built(ledger: Ledger, pipeline: Pipeline, units: list[int] | None = None) -> GalleryBuilder:
    builder = GalleryBuilder(pipeline)
    for group in verdict_groups(ledger, pipeline, units=units):
        builder.add(group)
    return builder


def ledgers(tmp_path: Path) -> Iterator[tuple[Ledger, Pipeline]]:
    pipeline = a_pipeline(tmp_path)
    for seed in range(6):
        ledger = random_ledger(pipeline, tmp_path / str(seed), seed, contradictions=False)
        if seed % 2:
            list_units(ledger, 0, 1)
        yield ledger, pipeline


def test_it_chooses_those_nearest_each_threshold_and_some_of_every_end(tmp_path: Path) -> None:
    num_cut = 0
    for ledger, pipeline in ledgers(tmp_path):
        expected, gallery = Search(ledger, pipeline), built(ledger, pipeline).finish()
        assert {(one.step, one.setting) for one in gallery.borders} >= set(expected.values)
        for border in gallery.borders:
            for found, number, passed in (
                (border.rejected, border.num_rejected, False),
                (border.passed, border.num_passed, True),
            ):
                nearest = expected.nearest(border, passed=passed)
                shown = [(near.value, near.found.sample.sample_id, near.reason) for near in found]
                assert shown == nearest[:EACH_SIDE]
                assert number == len(nearest)
                num_cut += number > EACH_SIDE
        assert {key: ids_of(found) for key, found in gallery.outcomes.items()} == {
            key: sorted(ids)[:EACH_OUTCOME] for key, ids in expected.outcomes.items()
        }
        assert {key: ids_of(found) for key, found in gallery.errors.items()} == {
            key: sorted(ids)[:EACH_ERROR] for key, ids in expected.errors.items()
        }
    assert num_cut > 20


def ids_of(found: list[Any]) -> list[str]:
    return [one.sample.sample_id for one in found]


def test_builders_of_parts_merge_to_that_of_the_whole(tmp_path: Path) -> None:
    for ledger, pipeline in ledgers(tmp_path):
        merged = built(ledger, pipeline, [0])
        for unit in range(1, NUM_UNITS):
            merged.merge(built(ledger, pipeline, [unit]))
        assert merged.finish() == built(ledger, pipeline).finish()
