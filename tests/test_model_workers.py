"""Whole runs with model workers: the same shards as without, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datasets_media import config_data, contents, curation, write_config
from faults.test_faults import FINE, outcomes

pytestmark = pytest.mark.slow


def run_with(media: Path, vocabulary: Path, folder: Path, **run: Any) -> Path:
    data = config_data(media, folder / "out", vocabulary)
    data["videos"]["filters"] = ["flow", "aesthetic", "color"]
    data["videos"]["aesthetic"] = data["images"]["aesthetic"] | {"min_score": 0.0}
    data["run"] |= {"max_held_bytes": 3_000_000, **run}
    folder.mkdir()
    curation("run", "-c", write_config(folder / "c.yaml", data))
    return folder / "out"


def test_shards_are_those_of_a_run_without_model_workers(
    media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    fused = run_with(media, vocabulary, tmp_path / "fused")
    apart = run_with(media, vocabulary, tmp_path / "apart", model_workers=2)
    assert contents(apart / "shards") == contents(fused / "shards")
    pools = {
        pool["pool"]: pool for pool in json.loads((apart / "run.json").read_text())["last_work"]["pools"]
    }
    assert pools.keys() == {"filter: decode", "filter: models", "enrich: decode", "enrich: models"}
    tokens = pools["enrich: models"]
    assert tokens["num_workers"] == 2
    assert tokens["num_samples"] == 7  # three images and four windows
    assert 0 < tokens["most_bytes_out"] <= tokens["bytes_sent"]
    assert "most in flight" in (apart / "report/index.html").read_text()


def test_source_that_kills_its_model_worker_is_failed_and_nobody_else(media: Path, tmp_path: Path) -> None:
    config = images_of(media, tmp_path, "deadly_model_color", "DeadlyModelColor")
    said = curation("run", "-c", config)
    assert "photo1.jpg killed its worker (the model worker of images.deadly_model_color died" in said
    found = {name: found for name, found in outcomes(config, tmp_path).items() if name.endswith(".jpg")}
    assert found == FINE | {"photo1.jpg": ("failed", "PoisonSource")}
    assert "nothing was missing" in curation("run", "-c", config)


def images_of(media: Path, tmp_path: Path, name: str, stage: str) -> Path:
    """One stage of `model_stages` on the images, in one model worker."""
    data = {
        "name": "workers",
        "input": [str(media)],
        "output": str(tmp_path / "out"),
        "images": {"filters": [name]},
        "stages": {name: f"model_stages:{stage}"},
        "run": {"workers": 2, "model_workers": 1, "unit_images": 3, "max_failed_fraction": 1.0},
    }
    return write_config(tmp_path / "c.yaml", data)


def test_precision_that_this_machine_lacks_is_refused_before_any_work(
    media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    data = config_data(media, tmp_path / "out", vocabulary)
    data["tokens"]["precision"] = "tf32"
    said = curation("run", "-c", write_config(tmp_path / "c.yaml", data), code=2)
    assert "tokens.precision: tf32 is computed by NVIDIA GPUs" in said
    assert not (tmp_path / "out/ledger").exists()
