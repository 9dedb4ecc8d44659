"""The summary by column, against a count one by one; what it must notice; what it costs to merge."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from rich.console import Console

from curation.errors import LedgerError
from curation.ledger import Ledger
from curation.ledger.unit_state import SampleVerdict
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import AllOf, Rows, Rule, Step, decide, describe_rule, passed_by, steps_of
from curation.records import Outcome, Row, Sample, SourceKind
from curation.report.summary.funnel import print_funnel
from curation.report.summary.summary import MAX_EXAMPLES, Summary, SummaryBuilder, summarize
from curation.splitter import Span, span_row
from one_by_one import scan_verdicts
from random_ledgers import NUM_UNITS, a_pipeline, list_units, random_ledger


def asked(rule: Rule, rows: Rows) -> set[str]:
    """Keys of the steps that a rule comes to: all up to the one that settles it."""
    if isinstance(rule, Step):
        return {rule.key}
    found: set[str] = set()
    for part in rule.rules:
        found |= asked(part, rows)
        goes_on = (Outcome.KEPT,) if isinstance(rule, AllOf) else (Outcome.REJECTED, Outcome.FAILED)
        if decide(part, rows).outcome not in goes_on:
            break
    return found


class Count:
    """Everything that a summary says, as plain counters."""

    def __init__(self, ledger: Ledger, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.totals: Counter[Any] = Counter()
        self.failures: list[Any] = []
        self.values: dict[Any, list[float]] = {}
        self.gone: list[str] = []
        for state, judged in scan_verdicts(ledger, pipeline):
            self.gone += [source.uri for source in state.gone]
            for source in judged:
                self.source(source, state.rows)

    def source(self, judged: Any, measured: dict[str, dict[str, Row]]) -> None:
        source, verdict = judged.source, judged.verdict
        self.totals["source", source.kind, verdict.outcome] += 1
        if verdict.outcome is Outcome.FAILED and not judged.samples:
            step = verdict.step.key if verdict.step else "probe"
            self.totals["step", step, Outcome.FAILED] += step != "probe"
            self.failures.append((source.uri, None, step, verdict.reason, judged.error))
        branch = self.pipeline.branches.get(source.kind)
        if verdict.outcome is Outcome.PENDING and not judged.samples:
            self.totals["step", branch.splitter.key, "waiting"] += 1
        for sample in judged.samples:
            self.rows(branch.whole_rule, sample)
            for rule, part in passed_by(self.pipeline.branches[source.kind].rule, sample.rows):
                self.totals["kept by", source.kind, describe_rule(rule), describe_rule(part)] += 1
            for leaf in sample.leaves():
                if decide(branch.whole_rule, sample.rows).outcome is Outcome.KEPT:
                    self.rows(self.pipeline.enrich, leaf)
                else:
                    for step in steps_of(self.pipeline.enrich):
                        self.totals["step", step.key, "unasked"] += leaf.sample.sample_id in measured.get(
                            step.key, {}
                        )
                self.leaf(source.uri, leaf)

    def leaf(self, uri: str, leaf: SampleVerdict) -> None:
        verdict = leaf.verdict
        self.totals["sample", leaf.sample.kind, verdict.outcome] += 1
        if verdict.step:
            self.totals["reason", leaf.sample.kind, verdict.step.key, verdict.reason] += 1
        last = {(row.error_type, row.error): key for key, row in leaf.rows.items() if not row.ok}
        self.failures += [(uri, leaf.sample.sample_id, key, *what) for what, key in last.items()]

    def rows(self, rule: Rule, sample: SampleVerdict) -> None:
        comes_to = asked(rule, sample.rows)
        for step in steps_of(rule):
            row = sample.rows.get(step.key)
            if step.key not in comes_to:
                self.totals["step", step.key, "unasked"] += row is not None
                continue
            if row is None:
                self.totals["step", step.key, "waiting"] += 1
                continue
            verdict = decide(step, sample.rows)
            self.totals["step", step.key, verdict.outcome] += 1
            self.totals["step reason", step.key, verdict.reason] += verdict.reason is not None
            for column in {mark.column for mark in step.stage.thresholds().values()}:
                if row.values.get(column) is not None:
                    self.values.setdefault((step.key, column), []).append(row.values[column])
            if row.ok and step.key == "captions":
                self.totals["verdict", row.values["verdict"]] += 1


def totals_of(summary: Summary) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for name, group in (("source", summary.sources), ("sample", summary.samples)):
        for kind, counts in group.items():
            found.update({(name, kind, outcome): number for outcome, number in counts.items()})
    found.update({("reason", *key): number for key, number in summary.reasons.items()})
    for (kinds, rule), kept in summary.kept_by.items():
        found.update({("kept by", kinds[:-1], rule, branch): number for branch, number in kept.items()})
    for key, step in summary.steps.items():
        found.update({("step", key, outcome): number for outcome, number in step.outcomes.items()})
        found.update({("step", key, "waiting"): step.num_waiting, ("step", key, "unasked"): step.num_unasked})
        found.update({("step reason", key, reason): number for reason, number in step.reasons.items()})
        found.update({("verdict", what): n for what, n in step.counts.get("verdict", Counter()).items()})
    return found


def whole(ledger: Ledger, pipeline: Pipeline, units: list[int] | None = None) -> SummaryBuilder:
    builder = SummaryBuilder(pipeline)
    for group in verdict_groups(
        ledger,
        pipeline,
        units=units,
        source_columns=builder.source_columns,
        columns=builder.columns,
    ):
        builder.add(group)
    return builder


def ledgers(tmp_path: Path) -> Iterator[tuple[Ledger, Pipeline]]:
    """Random ones, of whose sources a few are gone in every second one."""
    pipelines = [a_pipeline(tmp_path), a_pipeline(tmp_path, hdr="reject")]
    for seed in range(10):
        ledger = random_ledger(pipelines[seed % 2], tmp_path / str(seed), seed, contradictions=False)
        if seed % 4 < 2:
            list_units(ledger, 0, 1)
        yield ledger, pipelines[seed % 2]


def test_it_equals_a_count_one_by_one(tmp_path: Path) -> None:
    num_gone = num_rows = 0
    for ledger, pipeline in ledgers(tmp_path):
        expected, summary = Count(ledger, pipeline), summarize(ledger, pipeline)
        assert +totals_of(summary) == +expected.totals
        failures = [(f.uri, f.sample_id, f.step, f.error_type, f.error) for f in summary.failures]
        assert failures == expected.failures[:MAX_EXAMPLES]
        assert summary.num_failures == len(expected.failures)
        assert summary.gone.total() == len(expected.gone)
        assert summary.gone_examples == expected.gone
        histograms = {
            (key, column): (histogram.total, histogram.low, histogram.high)
            for key, step in summary.steps.items()
            for column, histogram in step.histograms.items()
        }
        assert histograms == {
            where: (len(values), min(values), max(values)) for where, values in expected.values.items()
        }
        num_gone += len(expected.gone)
        num_rows += len(expected.failures)
    assert num_gone > 20
    assert num_rows > 150


def test_parts_merge_into_the_whole(tmp_path: Path) -> None:
    for ledger, pipeline in ledgers(tmp_path):
        parts = [whole(ledger, pipeline, [unit]) for unit in range(NUM_UNITS)]
        for part in parts[1:]:
            parts[0].merge(part)
        merged, summary = parts[0].finish(), summarize(ledger, pipeline)
        for key, step in summary.steps.items():
            for column, histogram in step.histograms.items():
                other = merged.steps[key].histograms[column]
                assert (other.exponent, other.start) == (histogram.exponent, histogram.start)
                np.testing.assert_array_equal(other.counts, histogram.counts)
            step.histograms.clear()
            merged.steps[key].histograms.clear()
        assert merged == summary


def test_kinds_of_sources_stand_in_one_order() -> None:
    """Images before videos before containers, also where nothing but containers and videos is known yet."""
    counts: dict[SourceKind, Counter[Outcome]] = {}
    for kind in reversed(get_args(SourceKind)):
        counts[kind] = Counter({Outcome.PENDING: 1})
    totals = Summary(sources=counts).outcome_totals()
    assert list(totals) == ["image sources", "video sources", "container sources"]


def test_source_in_two_units_is_noticed(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 0, contradictions=False)
    twice = next(source for source in ledger.sources(0) if source.kind == "image")
    ledger.commit_sources(NUM_UNITS, [twice])
    with pytest.raises(LedgerError, match=f"ids are in the ledger twice: .*{twice.source_id}"):
        summarize(ledger, pipeline)
    parts = [whole(ledger, pipeline, [unit]) for unit in (0, NUM_UNITS)]
    parts[0].merge(parts[1])
    with pytest.raises(LedgerError, match="ids are in the ledger twice"):
        parts[0].finish()


def test_sample_of_two_sources_is_noticed(tmp_path: Path) -> None:
    """A clip's row that was filed under another source as well."""
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 1, contradictions=False)
    splitter = pipeline.branches["video"].splitter
    assert splitter is not None
    videos = [
        (unit, source.source_id)
        for unit in (0, 1)
        for source in ledger.sources(unit)
        if source.kind == "video" and source.ok
    ]
    span = Span(start_s=0.0, end_s=7.0, start_frame=0, end_frame=1)
    clip = Sample.of_span("anybody's", 0.0, 7.0)
    for unit in (0, 1):
        source_id = next(
            source_id
            for place, source_id in videos
            if place == unit and not split_failed(ledger, splitter, unit, source_id)
        )
        row = span_row(clip, span) | {"source_id": source_id}
        ledger.commit(
            splitter.name, splitter.fingerprint, unit, [Row(clip.sample_id, row)], splitter.stage.columns
        )
    with pytest.raises(LedgerError, match=f"1 ids are in the ledger twice: {clip.sample_id}"):
        summarize(ledger, pipeline)


def split_failed(ledger: Ledger, splitter: Any, unit: int, source_id: str) -> bool:
    rows = ledger.rows(splitter.name, splitter.fingerprint, unit)
    return any(row.sample_id == source_id and not row.ok for row in rows)


def test_clip_that_no_verdict_counts_is_noticed(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 2, contradictions=False)
    splitter = pipeline.branches["video"].splitter
    assert splitter is not None
    rows = ledger.rows(splitter.name, splitter.fingerprint, 0)
    clip = next(row for row in rows if row.ok)
    ledger.commit(
        splitter.name,
        splitter.fingerprint,
        0,
        [Row(clip.values["source_id"], {}, "DecodeError", "later")],
        splitter.stage.columns,
    )
    with pytest.raises(LedgerError, match="is in the ledger, but its splitter says it failed"):
        summarize(ledger, pipeline)


def test_narrow_terminal_cuts_no_name(tmp_path: Path) -> None:
    """80 columns have no room for the reasons beside all the numbers: these come below, and whole."""
    pipeline = a_pipeline(tmp_path)
    summary = summarize(random_ledger(pipeline, tmp_path, 1, contradictions=False), pipeline)
    shown = {}
    for width in (80, 200):
        console = Console(width=width, record=True, soft_wrap=True, file=io.StringIO())
        print_funnel(console, pipeline, summary)
        shown[width] = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown[80]
    assert "rejected  failed  to measure  not asked  reasons" in shown[200]
    for key, step in summary.steps.items():
        assert re.search(rf"^{re.escape(key)} +{step.measured} ", shown[80], re.MULTILINE)
        for reason, number in step.reasons.items():
            assert re.search(rf"^  {re.escape(key)}: .*{reason} {number}", shown[80], re.MULTILINE)
            assert re.search(rf"^{re.escape(key)} .*{reason} {number}", shown[200], re.MULTILINE)
