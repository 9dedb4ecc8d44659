"""Which samples go into shards, and what they take along."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.errors import ConfigError
from curation.ingest.metadata import drawn_text
from curation.ledger import Ledger
from curation.ledger.selection import (
    ALT_TEXT_NAMES,
    LICENSE_NAMES,
    Selection,
    exported_columns,
    metadata_texts,
)
from curation.ledger.unit_state import SampleVerdict, SourceVerdict
from curation.pipeline import Pipeline
from curation.pipeline.rules import decide
from curation.records import Outcome, Row
from curation.stage import Column
from curation.stages.color import ColorStage
from datasets_media import Bench, config_data
from one_by_one import scan_verdicts
from random_ledgers import a_pipeline, random_ledger
from test_columns import Noting


@pytest.mark.parametrize(
    ("metadata", "license_", "alt_text"),
    [
        ({}, None, None),
        ({"license": "CC-BY-4.0", "caption": "a cat"}, "CC-BY-4.0", "a cat"),
        ({"LICENSE": "MIT", "TEXT": "LAION's name for it"}, "MIT", "LAION's name for it"),
        ({"licence": "CC0", "alt": "short", "text": "long"}, "CC0", "short"),
        ({"license": "", "similarity": 0.3}, None, None),
        ({"license": 4}, "4", None),
        ({"license": ["CC0", "MIT"], "caption": "", "text": "b"}, "CC0; MIT", "b"),
    ],
)
def test_license_and_text_under_the_names_that_others_use(
    metadata: dict[str, Any], license_: str | None, alt_text: str | None
) -> None:
    assert ("; ".join(metadata_texts(metadata, LICENSE_NAMES)) or None) == license_
    assert drawn_text(metadata_texts(metadata, ALT_TEXT_NAMES), "sample") == alt_text


SCORES = ("aesthetic_score", "text_coverage", "flow_score")


def one_by_one(ledger: Ledger, pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """Every kept leaf, told from whole rows."""
    for state, judged in scan_verdicts(ledger, pipeline):
        for source in judged:
            for sample in source.samples:
                for leaf in sample.leaves():
                    if leaf.verdict.outcome is Outcome.KEPT:
                        yield {"unit": state.unit, **kept(pipeline, source, sample, leaf)}


def kept(
    pipeline: Pipeline, source: SourceVerdict, sample: SampleVerdict, leaf: SampleVerdict
) -> dict[str, Any]:
    branch = pipeline.branches[source.source.kind]
    noting = Noting(sample.rows)
    decide(branch.rule, noting)
    values: dict[str, Any] = {}
    for key in noting.looked_for:
        row = sample.rows.get(key, Row("", {}))
        values |= {name: row.values[name] for name in SCORES if name in row.values}
    is_clip = leaf.sample.kind == "clip"
    caption, grid = leaf.rows["captions"].values, leaf.rows["tokens"].values
    return {
        "sample_id": leaf.sample.sample_id,
        "source_id": source.source.source_id,
        "source_uri": source.source.uri,
        "kind": leaf.sample.kind,
        "start_s": leaf.sample.start_s if is_clip else None,
        "end_s": leaf.sample.end_s if is_clip else None,
        "caption": caption["caption"],
        "caption_model": caption["model"],
        **{name: grid[name] for name in ("grid_t", "grid_h", "grid_w", "fps")},
        **{name: values.get(name) for name in SCORES},
    }


def by_column(selection: Selection) -> list[dict[str, Any]]:
    rows = [row for table in selection.kept(selection.units()) for row in table.to_pylist()]
    return [{name: value for name, value in row.items() if name != "carried"} for row in rows]


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["sample_id"])


def test_kept_samples_by_column_equal_those_one_by_one(tmp_path: Path) -> None:
    """Also once the selection was sent to another process. Rows that the rule does not come to don't show."""
    pipeline = a_pipeline(tmp_path)
    found: Counter[str] = Counter()
    for seed in range(12):
        ledger = random_ledger(pipeline, tmp_path / str(seed), seed)
        expected = by_id(list(one_by_one(ledger, pipeline)))
        selection = Selection(ledger, pipeline)
        assert by_id(by_column(selection)) == expected
        sent = pickle.loads(pickle.dumps(selection))
        assert by_id(by_column(sent)) == expected
        found.update(row["kind"] for row in expected)
        found.update(name for row in expected for name in SCORES if row[name] is not None)
    assert min(found[name] for name in (*SCORES, "image", "clip")) > 0


def test_units_apart_give_the_same(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    selection = Selection(random_ledger(pipeline, tmp_path / "1", 1), pipeline)
    apart = [
        row for unit in selection.units() for table in selection.kept([unit]) for row in table.to_pylist()
    ]
    together = [row for table in selection.kept(selection.units()) for row in table.to_pylist()]
    assert by_id(apart) == by_id(together)


def with_threshold(media: Path, output: Path, vocabulary: Path, min_score: float) -> dict[str, Any]:
    data = config_data(media, output, vocabulary)
    data["images"]["aesthetic"] |= {"min_score": min_score}
    del data["videos"]
    return data


def test_what_was_tried_before_does_not_show(media: Path, tmp_path: Path, vocabulary: Path) -> None:
    """A sample has the scores that the rule asks for now, whatever was measured for an earlier threshold."""
    tried = tmp_path / "tried"
    Bench(with_threshold(media, tried, vocabulary, 9.9)).run()  # all go on to color and text
    outputs = []
    for output in (tried, tmp_path / "fresh"):
        bench = Bench(with_threshold(media, output, vocabulary, 0.0))
        bench.run()
        outputs.append(bench)
    assert len(outputs[0].rows("images.text")) > len(outputs[1].rows("images.text"))
    tables = [by_column(Selection(bench.ledger, bench.pipeline)) for bench in outputs]
    assert tables[0] == tables[1]
    assert {row["text_coverage"] for row in tables[0]} == {None}
    assert None not in {row["aesthetic_score"] for row in tables[0]}


def test_license_and_text_stand_in_the_place_of_what_sources_carry(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    selection = Selection(Ledger(random_ledger(pipeline, tmp_path / "1", 1).storage), pipeline)
    carried = [None, '{"license": "CC0", "caption": "a cat"}', '{"alt": ["one", "two"]}']
    table = pa.table({"sample_id": ["a", "b", "c"], "carried": pa.array(carried, pa.string())})
    found = selection.described(table)
    assert found.column_names == ["sample_id", "tokenizer", "license", "alt_text"]
    default = pipeline.config.general.license
    assert found["license"].to_pylist() == [default, "CC0", default]
    assert found["alt_text"].to_pylist() == [None, "a cat", drawn_text(["one", "two"], "c")]


def test_columns_of_one_name_and_different_types_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = a_pipeline(tmp_path)
    assert list(exported_columns(pipeline)) == ["aesthetic_score", "text_coverage", "flow_score"]
    column = Column(pa.float64(), "Another.", exported=True)
    monkeypatch.setattr(ColorStage, "columns", ColorStage.columns | {"flow_score": column})
    with pytest.raises(ConfigError, match=r"exports flow_score as float, another stage as double"):
        exported_columns(pipeline)
