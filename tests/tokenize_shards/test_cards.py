"""Cards and Croissant of shards: read by the Hub's own classes, by `datasets`, and by mlcroissant."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import mlcroissant
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DataFilesNotFoundError
from huggingface_hub import DatasetCard

from curation.ledger.selection import LICENSE_NAMES, Selection, metadata_texts
from curation.pipeline import Pipeline
from curation.records import Outcome
from curation.report.cards.card import render_card, render_shards_croissant
from curation.report.cards.header import (
    card_text,
    features_of,
    license_fields,
    size_category,
    split_card,
)
from curation.report.cards.statistics import QUANTILES, SampleStatistics, quantiles
from curation.report.summary.histogram import Histogram
from curation.report.summary.summary import Failure, Summary, summarize
from curation.storage import open_storage
from curation.tokenize_shards.shards.exports import export
from curation.tokenize_shards.shards.retract import find_folders, rewrite_folder
from curation.tokenize_shards.shards.rows import SCHEMA, grid_of
from curation.tokenize_shards.shards.verify import verify
from curation.tokenize_shards.shards.writer import ShardConfig, ShardWriter, Written
from datasets_media import said_by
from random_ledgers import a_pipeline, random_ledger
from shard_samples import FakeLedger, kept_sample

# mlcroissant reads JSON-LD and Parquet by what its libraries will not have much longer.
pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame"),
]

LICENSES = ("CC0", "CC-BY 4.0 | see\nLICENSE")
KEPT = [
    kept_sample(
        number,
        license=LICENSES[number % 3 == 0],
        aesthetic_score=4 + number / 10 if number % 4 else None,
        caption="word " * (number + 1),
    )
    for number in range(40)
]
Loaded = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Of stand-ins."""
    return a_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def summary(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("ledger")
    return summarize(random_ledger(pipeline, folder, 1, contradictions=False), pipeline)


@pytest.fixture(scope="module")
def shards(
    small_vocabulary: Path, pipeline: Pipeline, summary: Summary, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Written]:
    """20 images and 20 clips in shards of both splits, with what lies beside them."""
    folder = tmp_path_factory.mktemp("shards")
    config = ShardConfig(vocabulary=str(small_vocabulary), shard_bytes=4000, validation_fraction=0.2)
    written = ShardWriter(config).write(open_storage(str(folder)), "", FakeLedger(KEPT))
    (folder / "README.md").write_text(render_card(pipeline, summary, written))
    (folder / "croissant.json").write_text(render_shards_croissant(pipeline, written))
    return folder, written


@pytest.fixture(scope="module")
def rows(shards: tuple[Path, Written]) -> Loaded:
    """Split -> its rows, in the order of the files."""
    found: Loaded = {"train": [], "validation": []}
    for path in sorted(shards[0].glob("*.parquet")):
        found[path.name.partition("-")[0]] += pq.read_table(path).to_pylist()
    return found


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


class TestCard:
    def test_the_hub_reads_its_header(self, shards: tuple[Path, Written], rows: Loaded) -> None:
        folder, _ = shards
        data = DatasetCard.load(folder / "README.md").data.to_dict()
        assert data["size_categories"] == ["n<1K"]
        assert data["task_categories"] == [
            "text-to-image",
            "image-to-text",
            "text-to-video",
            "video-text-to-text",
        ]
        assert "untrained" in data["tags"]
        sizes = {part["name"]: part["num_examples"] for part in data["dataset_info"]["splits"]}
        assert sizes == {split: len(found) for split, found in rows.items()}
        assert data["dataset_info"]["download_size"] == sum(
            path.stat().st_size for path in folder.glob("*.parquet")
        )

    def test_datasets_loads_the_folder_by_it(self, shards: tuple[Path, Written], rows: Loaded) -> None:
        """With the columns and sizes of the header, which `datasets` holds against the rows."""
        loaded = datasets.load_dataset(str(shards[0]))
        assert {split: part.to_list() for split, part in loaded.items()} == rows

    def test_stand_ins_come_first(self, shards: tuple[Path, Written]) -> None:
        _, body = split_card((shards[0] / "README.md").read_text())
        assert body.strip().startswith("> **UNTRAINED stand-in models")

    def test_licenses_are_counted_and_break_no_table(self, shards: tuple[Path, Written]) -> None:
        card = (shards[0] / "README.md").read_text()
        assert "| CC0 | 26 | 65.00% |" in card
        assert r"| CC-BY 4.0 \| see LICENSE | 14 | 35.00% |" in card

    def test_failures_by_type(self, shards: tuple[Path, Written], summary: Summary) -> None:
        """A share of everything: sources, and what was found in them."""
        card = (shards[0] / "README.md").read_text()
        total = sum(counts["in"] for counts in summary.outcome_totals().values())
        assert summary.num_failures
        for kind, number in summary.failed_by.items():
            assert f"| {kind} | {number} | {number / total:.2%} |" in card

    def test_funnel_has_failed_apart(self, shards: tuple[Path, Written], summary: Summary) -> None:
        card = (shards[0] / "README.md").read_text()
        funnel = [line.split(" | ") for line in card.splitlines() if line.count(" | ") == 6]
        shown = {cells[0].removeprefix("| "): cells[2:6] for cells in funnel}
        for key, step in summary.steps.items():
            ended = [step.outcomes[name] for name in (Outcome.KEPT, Outcome.REJECTED, Outcome.FAILED)]
            assert shown[key] == [str(number) for number in (step.measured, *ended)]

    def test_tables_are_whole(self, shards: tuple[Path, Written]) -> None:
        """Every line of a table has as many cells as its head, or Markdown shows none of it."""
        width = 0
        for line in (shards[0] / "README.md").read_text().splitlines():
            cells = line.replace(r"\|", "").count("|")
            assert width in (0, cells) or not line.startswith("|")
            width = cells if line.startswith("|") else 0


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("cc0-1.0", {"license": "cc0-1.0"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("unknown", {"license": "unknown"}),
        ("Mixed (see: packages)", {"license": "other", "license_name": "mixed-see-packages"}),
        ("custom-1", {"license": "other", "license_name": "custom-1", "license_link": "https://a.b/c"}),
        ("版权", {"license": "unknown"}),
    ],
)
def test_licenses_are_what_the_hub_takes(name: str, fields: dict[str, str]) -> None:
    """Its rules: an identifier of its list, or "other" with a name of small letters, digits, `-` and `.`."""
    assert license_fields(name, "https://a.b/c" if "license_link" in fields else None) == fields
    assert fields["license"] in ("other", "unknown") or DatasetCard(card_text(fields, "# x")).data.license


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T"), (10**14, "n>1T")],
)
def test_size_categories(number: int, name: str) -> None:
    assert size_category(number) == name


def test_features_are_those_of_datasets() -> None:
    nested = pa.struct([("text", pa.string()), ("codes", pa.list_(pa.list_(pa.uint16())))])
    schema = SCHEMA.append(pa.field("nested", nested)).append(pa.field("flag", pa.bool_()))
    assert features_of(schema) == datasets.Features.from_arrow_schema(schema)._to_yaml_list()


def test_a_card_without_header_is_all_body() -> None:
    assert split_card("# x\n") == ({}, "# x\n")
    assert split_card("---\n: [\n---\nx\n") == ({}, "x\n")


class TestStatistics:
    def test_they_equal_a_count_one_by_one(self, shards: tuple[Path, Written], rows: Loaded) -> None:
        found, everyone = shards[1].statistics, [row for part in rows.values() for row in part]
        assert found.samples == Counter(row["kind"] for row in everyone)
        assert found.licenses == Counter(row["license"] for row in everyone)
        assert found.clip_s == sum(row["end_s"] - row["start_s"] for row in everyone if row["end_s"])
        assert found.resolutions == Counter(
            (row["kind"], 8 * row["grid_w"], 8 * row["grid_h"]) for row in everyone
        )
        assert found.caption_length.total == 40
        assert found.scores["aesthetic_score"].total == sum(
            row["aesthetic_score"] is not None for row in everyone
        )
        assert "text_coverage" not in found.scores

    def test_quantiles_are_those_of_numpy(self) -> None:
        values = np.random.default_rng(0).gamma(2, 3, 10_000)
        histogram = Histogram()
        for part in np.split(values, 10):
            histogram.add(part)
        width = 2.0**histogram.exponent
        expected = np.quantile(values, QUANTILES, method="inverted_cdf")
        assert np.abs(np.array(quantiles(histogram)) - expected).max() <= width
        assert quantiles(histogram)[0] == values.min()

    def test_more_licenses_than_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("curation.report.cards.statistics.MAX_LICENSES", 3)
        statistics = SampleStatistics()
        for start in (0, 5):
            table = next(FakeLedger(KEPT[:5]).kept([0]))
            statistics.add(table, pa.array([f"L{start + number}" for number in range(5)]), ())
        assert sum(statistics.licenses.values()) == 10
        assert len(statistics.licenses) == 4


def test_licenses_of_samples_are_those_of_their_sources(pipeline: Pipeline, tmp_path: Path) -> None:
    """As parsing what each source carries says, one by one."""
    ledger = random_ledger(pipeline, tmp_path, 3, contradictions=False)
    selection = Selection(ledger, pipeline)
    carried = ['{"Licence": "CC-A"}', '{"x": "license"}', None, '{"license": ["A", "B"]}', '{"license": 3}']
    table = pa.table({"carried": pa.chunked_array([pa.array(carried[:2]), pa.array(carried[2:])])})
    expected = [
        "; ".join(metadata_texts(json.loads(text or "{}"), LICENSE_NAMES)) or "unknown" for text in carried
    ]
    assert expected[:2] == ["CC-A", "unknown"]
    assert selection.licenses(table).to_pylist() == expected


def records_of(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """Of mlcroissant; texts come as bytes."""
    found = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    issues = found.metadata.ctx.issues
    # When it is published and how to cite it is nobody's to invent before.
    unknown = [line for line in issues.warnings if "citeAs" not in line and "datePublished" not in line]
    assert not issues.errors, issues.report()
    assert not unknown, issues.report()
    for record in found.records(split):
        yield {name.removeprefix(f"{split}/"): plain(value) for name, value in record.items()}


def plain(value: Any) -> Any:
    if isinstance(value, list | np.ndarray):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def as_bytes(row: dict[str, Any]) -> dict[str, Any]:
    return {name: encoded(value) for name, value in row.items()}


def encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [encoded(item) for item in value]
    return value.encode() if isinstance(value, str) else value


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-12) if isinstance(value, float) else value


class TestCroissant:
    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_records_are_the_rows(self, shards: tuple[Path, Written], rows: Loaded, split: str) -> None:
        assert list(records_of(shards[0], split)) == [as_bytes(row) for row in rows[split]]

    def test_it_says_what_it_is(self, shards: tuple[Path, Written]) -> None:
        found = mlcroissant.Dataset(jsonld=str(shards[0] / "croissant.json")).metadata
        assert found.description.startswith("UNTRAINED stand-in models")
        assert shards[1].selection in found.version
        assert {item.content_url: item.sha256 for item in found.file_objects} == {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards[0].glob("*.parquet")
        }

    @pytest.mark.parametrize(("name", "settings"), [("datasets", {}), ("packed", {"context": 256})])
    def test_of_exports(
        self, shards: tuple[Path, Written], tmp_path: Path, name: str, settings: dict[str, Any]
    ) -> None:
        out = tmp_path / "out"
        export(name, str(shards[0]), str(out), **settings)
        expected = [
            as_bytes(row)
            for path in sorted(out.rglob("train-*.parquet"))
            for row in pq.read_table(path).to_pylist()
        ]
        assert list(records_of(out, "train")) == expected
        described = json.loads((out / "croissant.json").read_text())["description"]
        assert described.startswith("UNTRAINED stand-in models")

    def test_of_json_lines(self, shards: tuple[Path, Written], rows: Loaded, tmp_path: Path) -> None:
        """The rows of the shards, codes as lists; the last digit of a number is as pandas reads it."""
        export("jsonl", str(shards[0]), str(tmp_path / "out"))
        found = list(records_of(tmp_path / "out", "train"))
        expected = [as_bytes({**row, "codes": grid_of(row).tolist()}) for row in rows["train"]]
        for record, row in zip(found, expected, strict=True):
            assert record == {name: near(value) for name, value in row.items()}

    def test_verify_holds_it_against_the_shards(self, shards: tuple[Path, Written], tmp_path: Path) -> None:
        """Shards without it are sound, as those that were made before there was one."""
        for path in shards[0].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        storage = open_storage(str(tmp_path))
        assert verify(storage, "").problems == []
        text = (tmp_path / "croissant.json").read_text()
        for changed in (text.replace(shards[1].shards[0].sha256, "0" * 64), "{}", "[", "[1]", "[" * 20_000):
            (tmp_path / "croissant.json").write_text(changed)
            (problem,) = verify(storage, "").problems
            assert "croissant.json describes other shards" in problem
        (tmp_path / "croissant.json").unlink()
        assert verify(storage, "").problems == []


@pytest.mark.parametrize("name", ["datasets", "jsonl", "lance", "packed", "webdataset"])
def test_exports_load_by_their_cards(shards: tuple[Path, Written], tmp_path: Path, name: str) -> None:
    export(name, str(shards[0]), str(tmp_path / "out"))
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    assert sum(len(row.get("sample_ids", [0])) for part in loaded.values() for row in part) == 40
    header, body = split_card((tmp_path / "out/README.md").read_text())
    assert body.strip().startswith("> **UNTRAINED stand-in models")
    assert header["license"] == DatasetCard.load(shards[0] / "README.md").data.license
    assert "## Known failures" in body


@pytest.mark.parametrize("name", ["mds", "emu3"])
def test_load_dataset_takes_no_index_for_the_data(
    shards: tuple[Path, Written], tmp_path: Path, name: str
) -> None:
    """What it can't read it says; a row of an index looks like a data set of one sample."""
    export(name, str(shards[0]), str(tmp_path / "out"))
    with pytest.raises(DataFilesNotFoundError):
        datasets.load_dataset(str(tmp_path / "out"))


def test_shards_load_after_a_retraction(shards: tuple[Path, Written], rows: Loaded, tmp_path: Path) -> None:
    """What the card said of numbers is gone with the source."""
    folder = tmp_path / "shards/x"
    shutil.copytree(shards[0], folder)
    storage, gone = open_storage(str(tmp_path)), rows["train"][0]["source_id"]
    (concerned,), _ = find_folders(storage, lambda table: pc.equal(table["source_id"], gone).to_numpy())
    rewrite_folder(storage, concerned, [gone])
    loaded = datasets.load_dataset(str(folder))
    assert loaded["train"].to_list() == [row for row in rows["train"] if row["source_id"] != gone]
    assert verify(storage, "shards/x").problems == []


def test_shards_without_a_manifest(
    shards: tuple[Path, Written], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence wherever shards are read."""
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(min(shards[0].glob("*.parquet")).read_bytes())
    for command, code in (
        (("verify", tmp_path), 1),
        (("export", "jsonl", tmp_path, "--to", tmp_path / "out"), 2),
        (("publish", tmp_path, "hf://datasets/org/x"), 2),
    ):
        found, said = said_by(capsys, *command)
        assert (found, "manifest.json" in said.splitlines()[0]) == (code, True), said
        assert "Traceback" not in said


def test_a_failure_of_unknown_kind_is_shown(pipeline: Pipeline, shards: tuple[Path, Written]) -> None:
    """A card of an empty output, and one in which all failed."""
    empty = Summary(steps=summarize_nothing(pipeline).steps)
    assert "Nothing failed." in render_card(pipeline, empty, shards[1])
    empty.failures.append(Failure("a.png", None, "probe", "ProbeError", "why"))
    empty.num_failures, empty.failed_by = 1, Counter({"ProbeError": 1})
    assert "| ProbeError | 1 |" in render_card(pipeline, empty, shards[1])


def summarize_nothing(pipeline: Pipeline) -> Summary:
    from curation.report.summary.summary import SummaryBuilder

    return SummaryBuilder(pipeline).finish()
