"""A stage from outside the package: its columns reach ledger, table, shards, card and report as declared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.config import parse_config
from curation.execution.dataset_wide import bind
from curation.ledger import Ledger
from curation.ledger.selection import Selection
from curation.pipeline import build_pipeline
from curation.pipeline.decision import Decision
from curation.storage import open_storage
from curation.tokenize_shards.shards.writer import ShardWriter
from datasets_media import config_data, contents, curation, write_config
from sharpness import SharpnessStage

pytestmark = pytest.mark.slow

NAME = "small"


def recipe(media: Path, output: Path, vocabulary: Path, **run: Any) -> dict[str, Any]:
    """Sharpness of images and clips, a mean score of images, and shards of several tasks."""
    data = config_data(media, output, vocabulary)
    data["stages"] = {"sharpness": "sharpness:SharpnessStage"}
    data["images"] = {
        "filters": ["aesthetic", "sharpness", "mean_score"],
        "aesthetic": {"weights": "stand-in", "head": "stand-in", "head_sha256": None, "min_score": None},
        "mean_score": {"scores": ["aesthetic_score", "sharpness"], "scale": "rank", "min_score": None},
    }
    data["videos"]["filters"] = ["sharpness", "color"]
    data["videos"].pop("flow")
    data["shards"] |= {"shuffle_bytes": 1}
    data["run"] |= run | {"unit_images": 2}
    return data


@pytest.fixture(scope="module")
def output(media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    config = write_config(folder / "c.yaml", recipe(media, folder / "out", vocabulary, workers=2))
    curation("run", "-c", config)
    return folder / "out"


def test_shards_have_the_column_as_it_was_measured(output: Path) -> None:
    shards = sorted((output / "shards" / NAME).glob("*.parquet"))
    ledger: dict[str, float] = {}
    for path in (output / "ledger/sharpness").rglob("unit-*.parquet"):
        rows = pq.read_table(path)
        assert set(rows.column_names) >= set(SharpnessStage.columns)
        ledger |= dict(zip(rows["sample_id"].to_pylist(), rows["sharpness"].to_pylist(), strict=True))
    schema = pq.read_schema(shards[0])
    assert {"sharpness", "mean_score"} <= set(schema.names)
    assert schema.field("sharpness").type == pa.float64()
    assert "edges" not in schema.names
    kinds = set()
    for row in (row for path in shards for row in pq.read_table(path).to_pylist()):
        kinds.add(row["kind"])
        assert (row["mean_score"] is None) == (row["kind"] == "clip")
        assert row["sharpness"] == ledger.get(row["sample_id"], row["sharpness"]) > 0
    assert kinds == {"image", "clip"}


def test_card_says_what_it_means(output: Path) -> None:
    card = (output / "shards" / NAME / "README.md").read_text()
    for name, column in SharpnessStage.columns.items():
        assert (f"| `{name}` | `{column.type}` | {column.meaning} |" in card) == column.exported
    assert "| `mean_score` | `double` | Mean over the scores" in card
    assert "| `text_coverage` | `float` | Not measured by this recipe. |" in card
    named = [line.split(" | ")[0].strip("| `") for line in card.partition("## Columns")[2].splitlines()]
    shard = next((output / "shards" / NAME).glob("*.parquet"))
    assert [name for name in named if name in pq.read_schema(shard).names] == pq.read_schema(shard).names


def test_table_and_report_show_it(output: Path) -> None:
    config = output.parent / "c.yaml"
    curation("table", "-c", config, "--to", output.parent / "t.parquet")
    table = pq.read_table(output.parent / "t.parquet")
    assert "sharpness" in table.column_names
    assert "edges" not in table.column_names, "it is large"
    assert np.nanmax(table["sharpness"].to_numpy()) > 0
    assert re.search(r"<dt>sharpness</dt><dd>\d+\.?\d*</dd>", (output / "report/index.html").read_text())
    said = curation("explain", "-c", config, "photo1.jpg")
    assert re.search(r"images\.sharpness: sharpness [\d.]+$", said, re.MULTILINE)


def test_number_of_workers_changes_no_byte(
    output: Path, media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    """With one worker, with two, and in this process from the ledger that two have left."""
    data = recipe(media, tmp_path / "out", vocabulary, workers=1)
    curation("run", "-c", write_config(tmp_path / "c.yaml", data))
    shards = contents(output / "shards" / NAME)
    assert contents(tmp_path / "out/shards" / NAME) == shards
    config = parse_config(recipe(media, output, vocabulary))
    ledger = Ledger(open_storage(str(output)))
    assert config.shards is not None
    writer = ShardWriter(config.shards)
    pipeline = bind(build_pipeline(config), ledger)
    here = open_storage(str(tmp_path / "here"))
    writer.write(here, "", Selection(ledger, pipeline), decided=Decision.of(config))
    found = contents(tmp_path / "here")
    assert found == {
        name: data for name, data in shards.items() if name not in ("croissant.json", "README.md")
    }
    assert len(found) > 4
