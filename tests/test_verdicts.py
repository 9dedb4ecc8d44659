"""Verdicts of whole ledgers, by column, against the scalar judge: random ledgers, equal one by one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.ledger import Ledger
from curation.ledger.columns import NONE, OUTCOMES, Verdicts
from curation.ledger.unit_state import RecomputePolicy, SampleVerdict, SourceVerdict, scan_verdicts
from curation.ledger.verdicts import VerdictGroup, verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step, Verdict, describe_rule, passed_by
from curation.records import Outcome, Row, Sample, Source, stable_id
from curation.splitter import Span, span_row
from curation.storage import open_storage
from datasets_media import built, config_data, write_vocabulary

NUM_UNITS = 3
SOURCES_A_UNIT = 12


def a_pipeline(tmp_path: Path) -> Pipeline:
    vocabulary = write_vocabulary(tmp_path / "vocabulary.tiktoken")
    media = tmp_path / "media"
    media.mkdir()
    data = config_data(media, tmp_path / "out", vocabulary)
    data["hdr"] = "reject"
    return built(data)[1]


def random_ledger(pipeline: Pipeline, folder: Path, seed: int) -> Ledger:
    """Sources, clips and rows as a run that was stopped anywhere might have left them."""
    draw = random.Random(seed)
    ledger = Ledger(open_storage(str(folder)))
    for unit in range(NUM_UNITS):
        sources = [a_source(draw, f"{unit}-{number}") for number in range(SOURCES_A_UNIT)]
        ledger.commit_sources(unit, sources)
        for kind, branch in pipeline.branches.items():
            of_kind = [source for source in sources if source.kind == kind and source.ok]
            samples = [Sample.of_image(source) for source in of_kind]
            if branch.splitter:
                samples = commit_spans(draw, ledger, unit, branch.splitter, of_kind)
            windows = [window for sample in samples for window in pipeline.windows(sample)]
            for step in pipeline.steps():
                if step.key.startswith(f"{kind}s.") and step is not branch.splitter:
                    commit_rows(draw, ledger, unit, step, samples)
                elif "." not in step.key:
                    commit_rows(draw, ledger, unit, step, windows)
    return ledger


def a_source(draw: random.Random, name: str) -> Source:
    kind = draw.choice(["image", "video", "container"])
    broken = kind == "container" or draw.random() < 0.1
    return Source(
        source_id=stable_id(name),
        uri="twice.jpg" if draw.random() < 0.1 else name,
        kind=kind,  # type: ignore[arg-type]
        size_bytes=1,
        etag=name,
        color_transfer=draw.choice([None, "bt709", "smpte2084", "arib-std-b67"]) if kind == "video" else None,
        error_type=draw.choice(["ProbeError", "PoisonSource"]) if broken else None,
        error="why" if broken else None,
    )


def commit_spans(
    draw: random.Random, ledger: Ledger, unit: int, splitter: Step, sources: list[Source]
) -> list[Sample]:
    clips, rows = [], []
    for source in sources:
        if draw.random() < 0.2:
            rows.append(Row(source.source_id, {}, "DecodeError", "why"))
        for start_s in range(0, draw.randrange(4) * 50, 50):
            span = Span(
                start_s=start_s, end_s=start_s + draw.choice([0.2, 3.0, 45.0]), start_frame=0, end_frame=1
            )
            clip = Sample.of_span(source.source_id, span.start_s, span.end_s)
            clips.append(clip)
            rows.append(Row(clip.sample_id, span_row(clip, span)))
    draw.shuffle(rows)
    ledger.commit(splitter.name, splitter.fingerprint, unit, rows, splitter.stage.columns)
    return clips


def commit_rows(draw: random.Random, ledger: Ledger, unit: int, step: Step, samples: list[Sample]) -> None:
    """Rows of some of the samples; of none at all now and then, so that the unit has no file."""
    if draw.random() < 0.05:
        return
    rows = [
        Row(sample.sample_id, {}, draw.choice(["DecodeError", "CaptionError"]), "why")
        if draw.random() < 0.15
        else Row(sample.sample_id, values(draw, step))
        for sample in samples
        if draw.random() < 0.9
    ]
    ledger.commit(step.name, step.fingerprint, unit, rows, step.stage.columns)


def values(draw: random.Random, step: Step) -> dict[str, Any]:
    """Numbers around every threshold, nothing elsewhere."""
    found: dict[str, Any] = dict.fromkeys(step.stage.columns)
    for name, mark in step.stage.thresholds().items():
        bound = getattr(step.stage.config, name) or 0
        kind = step.stage.columns[mark.column].type
        found[mark.column] = (
            pa.scalar(draw.choice([bound] * 4 + [bound + 1, max(0, bound - 1)])).cast(kind).as_py()
        )
    return found


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
            passed = samples.judge.passed_by(samples.branch.rule)
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
    pipeline = a_pipeline(tmp_path)
    outcomes = set()
    for seed, recompute in itertools.product(range(12), REDOS):
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
