"""Verdicts of whole ledgers, by column, against the scalar evaluator: random ledgers, equal one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.ledger import Ledger
from curation.ledger.columns import NONE, OUTCOMES, Verdicts
from curation.ledger.unit_state import RecomputePolicy, SampleVerdict, SourceVerdict
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import Verdict, describe_rule, passed_by
from curation.records import Outcome, image_ids, stable_id
from curation.storage import open_storage
from one_by_one import scan_verdicts
from random_ledgers import NUM_UNITS, SOURCES_A_UNIT, a_pipeline, random_ledger

Said = tuple[str, str | None, str | None, str | None]


def one_by_one(
    ledger: Ledger, pipeline: Pipeline, recompute: RecomputePolicy
) -> Iterator[tuple[str, str, Said, str]]:
    for _, judged in scan_verdicts(ledger, pipeline, recompute):
        for source in judged:
            yield "source", source.source.source_id, said(source.verdict), ""
            for sample in source.samples:
                for leaf in sample.leaves():
                    kept_by = kept_by_of(pipeline, source.source.kind, sample)
                    span = f"{leaf.sample.start_s} {leaf.sample.end_s} {kept_by}"
                    yield "leaf", leaf.sample.sample_id, said(leaf.verdict), span


def kept_by_of(pipeline: Pipeline, kind: Any, sample: SampleVerdict) -> str:
    rule = pipeline.branches[kind].rule
    return ", ".join(describe_rule(part) for _, part in passed_by(rule, sample.rows))


def said(verdict: Verdict) -> Said:
    return (
        verdict.outcome.value,
        verdict.reason,
        verdict.step.key if verdict.step else None,
        verdict.needs.key if verdict.needs else None,
    )


def by_column(groups: Iterator[VerdictGroup]) -> Iterator[tuple[str, str, Said, str]]:
    for group in groups:
        for place, source_id in enumerate(group.sources["source_id"].to_pylist()):
            yield "source", source_id, said_at(group, group.of_sources, place), ""
        for kind, leaves in group.leaves.items():
            samples = group.samples[kind]
            passed = samples.evaluator.passed_by(samples.branch.rule)
            for place, sample_id in enumerate(leaves.sample_id.to_pylist()):
                sample = leaves.sample[place]
                kept_by = ", ".join(describe_rule(part) for _, part, who in passed if who[sample])
                span = f"{float(leaves.start_s[place])} {float(leaves.end_s[place])} {kept_by}"
                yield "leaf", sample_id, said_at(group, leaves.verdicts, place), span


def said_at(group: VerdictGroup, verdicts: Verdicts, place: int) -> Said:
    def key(code: int) -> str | None:
        return None if code == NONE else group.steps[code].key

    reason = verdicts.reason[place]
    return (
        OUTCOMES[verdicts.outcome[place]].value,
        None if reason == NONE else group.labels.texts[reason],
        key(verdicts.step[place]),
        key(verdicts.needs[place]),
    )


def missing(source: SourceVerdict) -> set[str]:
    verdicts = [source.verdict, *(leaf.verdict for leaf in source.leaves())]
    return {verdict.needs.key for verdict in verdicts if verdict.needs}


def check_waiting(ledger: Ledger, pipeline: Pipeline, recompute: RecomputePolicy, keys: set[str]) -> None:
    """What waits for these steps, told from the verdicts one by one."""
    found = []
    for group in verdict_groups(ledger, pipeline, recompute=recompute):
        ids = np.array(group.sources["source_id"].to_pylist())
        for waiting in group.waiting(keys):
            some = ({*ids[waiting.places]}, {*ids[waiting.unsplit]})
            found.append((waiting.unit, waiting.needs, *some, {*group.absent_ids(waiting.unit)}))
    expected = []
    for state, judged in scan_verdicts(ledger, pipeline, recompute):
        mine = [source for source in judged if missing(source) & keys]
        unsplit = [
            source for source in mine if source.verdict.outcome is Outcome.PENDING and not source.samples
        ]
        if mine:
            needs = frozenset[str]().union(*(missing(source) for source in mine))
            ids = ({source.source.source_id for source in some} for some in (mine, unsplit))
            absent = {source.source_id for source in ledger.sources(state.unit)}
            absent -= {source.source.source_id for source in judged}
            expected.append((state.unit, needs, *ids, absent))
    assert found == expected


REDOS = [
    RecomputePolicy(),
    RecomputePolicy(frozenset({"aesthetic", "scenes"})),
    RecomputePolicy(frozenset({"flow"}), only_failed=False),
]


def test_verdicts_by_column_equal_those_one_by_one(tmp_path: Path) -> None:
    pipelines = [a_pipeline(tmp_path), a_pipeline(tmp_path, hdr="reject")]
    outcomes = set()
    for seed, recompute in itertools.product(range(12), REDOS):
        pipeline = pipelines[seed % 2]
        folder = tmp_path / str(seed)
        ledger = (
            random_ledger(pipeline, folder, seed)
            if recompute is REDOS[0]
            else Ledger(open_storage(str(folder)))
        )
        expected = sorted(one_by_one(ledger, pipeline, recompute))
        assert sorted(by_column(verdict_groups(ledger, pipeline, recompute=recompute))) == expected
        assert len(expected) > SOURCES_A_UNIT * NUM_UNITS
        for keys in ({step.key for step in pipeline.steps()}, {"videos.scenes", "tokens"}, {"images.text"}):
            check_waiting(ledger, pipeline, recompute, keys)
        outcomes |= {said[0] for _, _, said, _ in expected}
    assert outcomes == {outcome.value for outcome in OUTCOMES}


def test_reading_units_apart_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 99)
    together = sorted(by_column(verdict_groups(ledger, pipeline)))
    monkeypatch.setattr("curation.ledger.verdicts.UNITS_AT_A_TIME", 1)
    assert sorted(by_column(verdict_groups(ledger, pipeline))) == together


def test_sources_bring_the_columns_that_were_asked_for(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 5)
    (group,) = verdict_groups(ledger, pipeline, source_columns=["uri"], units=[1])
    listed = {source.source_id: source.uri for source in ledger.sources(1)}
    found = dict(zip(*(group.sources[name].to_pylist() for name in ("source_id", "uri")), strict=True))
    assert found.items() <= listed.items()
    assert set(group.sources["unit"].to_pylist()) == {1}


def test_ids_of_images_are_those_of_spans_without_length() -> None:
    names = ["a", "0123456789abcdef0123", "\u4e2d"]
    assert image_ids(names) == [stable_id(name, 0, 0) for name in names]
