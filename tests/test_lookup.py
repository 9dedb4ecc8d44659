"""Sources and samples found by column, against a search through all verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curation.ledger import Ledger
from curation.ledger.unit_state import SourceVerdict, source_verdict
from curation.pipeline import Pipeline
from curation.report.tables.lookup import Hit, find, judged_sources
from one_by_one import scan_verdicts
from random_ledgers import NUM_UNITS, a_pipeline, list_units, random_ledger

Said = tuple[int, str, tuple[str, ...], bool]


def said(hit: Hit) -> Said:
    samples = tuple(sample.sample.sample_id for sample in hit.samples)
    return hit.unit, hit.judged.source.source_id, samples, hit.is_gone


def everything(ledger: Ledger, pipeline: Pipeline) -> Iterator[tuple[int, SourceVerdict, bool]]:
    for state, judged in scan_verdicts(ledger, pipeline):
        for source in judged:
            yield state.unit, source, False
        for gone in state.gone:
            yield state.unit, source_verdict(pipeline, state, gone), True


def searched(known: list[tuple[int, SourceVerdict, bool]], wanted: str) -> set[Said]:
    found = set()
    for unit, judged, is_gone in known:
        source = judged.source
        samples = tuple(
            sample.sample.sample_id
            for sample in judged.samples
            if any(item.sample.sample_id.startswith(wanted) for item in (sample, *sample.windows))
        )
        names = (source.uri, source.uri.rpartition("/")[2])
        if samples or wanted in names or source.source_id.startswith(wanted):
            found.add((unit, source.source_id, samples, is_gone))
    return found


def test_it_finds_what_a_search_through_everything_finds(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    kinds = set()
    for seed in range(2):
        ledger = random_ledger(pipeline, tmp_path / str(seed), seed)
        if seed:
            list_units(ledger, 0, 2)
        known = list(everything(ledger, pipeline))
        windows = [item for _, judged, _ in known for sample in judged.samples for item in sample.windows]
        wanted = [judged.source.uri for _, judged, _ in known[::3]]
        wanted += [judged.source.source_id for _, judged, _ in known[::3]]
        wanted += [sample.sample.sample_id[:8] for _, judged, _ in known for sample in judged.samples][::3]
        wanted += [item.sample.sample_id for item in windows][::5]
        for name in wanted:
            found = [said(hit) for hit in find(ledger, pipeline, name)]
            assert len(found) == len(set(found))
            assert set(found) == searched(known, name)
            kinds |= {(bool(samples), is_gone) for _, _, samples, is_gone in found}
        for nothing in ("nothing", "", "abcde", "0" * 20, "ABCDEF"):
            assert list(find(ledger, pipeline, nothing)) == []
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}


def test_only_units_of_what_is_found_are_read(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 0)
    splitter = pipeline.branches["video"].splitter
    assert splitter is not None
    known = [(unit, source) for unit, source, _ in everything(ledger, pipeline) if unit == 1]
    for path in (tmp_path / "out/ledger").rglob("*.parquet"):
        if path.name != "unit-000001.parquet" and splitter.fingerprint not in path.parts:
            path.write_bytes(b"damaged")
    names: list[Any] = [source.source.uri for _, source in known if source.source.uri != "twice.jpg"]
    ids = [source.samples[0].sample.sample_id for _, source in known if source.samples]
    for name in (*names[:4], *ids[:4]):
        (hit,) = find(ledger, pipeline, name)
        assert hit.unit == 1
    by_id = [source.source.source_id for _, source in known]
    found = [source.source.source_id for _, source in judged_sources(ledger, pipeline, by_id)]
    assert sorted(found) == sorted(by_id)
    assert NUM_UNITS > 1


@pytest.mark.parametrize("uri", ["tar:///data/a.tar#in/x.jpg", "s3://bucket/in/x.jpg"])
def test_parts_of_containers_have_names_too(tmp_path: Path, uri: str) -> None:
    pipeline = a_pipeline(tmp_path)
    ledger = random_ledger(pipeline, tmp_path / "out", 0)
    (source, *others) = ledger.sources(2)
    ledger.replace_sources(2, [replace(source, uri=uri), *others])
    for name in (uri, "x.jpg", *(["in/x.jpg"] if uri.startswith("tar") else [])):
        (hit,) = find(ledger, pipeline, name)
        assert hit.judged.source.uri == uri
    assert list(find(ledger, pipeline, ".jpg")) == []
