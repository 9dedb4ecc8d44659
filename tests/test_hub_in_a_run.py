"""Runs whose input is a data set on the Hub, of which a stand-in answers (tests/hub_stand_in.py)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation.config import parse_config
from curation.errors import ConfigError
from datasets_media import curation, write_config, write_photo
from hub_stand_in import HubStandIn

URL = "hf://datasets/org/photos"


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, bytes]:
    """Three photos, and one in a tar."""
    found = {}
    for seed in range(4):
        write_photo(tmp_path / f"{seed}.jpg", seed)
        found[f"train/{seed}.jpg"] = (tmp_path / f"{seed}.jpg").read_bytes()
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        tar.add(tmp_path / "3.jpg", "3.jpg")
    del found["train/3.jpg"]
    found["more.tar"] = (tmp_path / "more.tar").read_bytes()
    return found | {".gitattributes": b"*.jpg filter=lfs\n", "README.md": b"# Photos"}


def test_a_run_reads_one_commit_and_the_next_one_what_has_changed(
    hub: HubStandIn, photos: dict[str, bytes], tmp_path: Path
) -> None:
    images = {"filters": ["resolution", "color"], "resolution": {"min_width": 64, "min_height": 64}}
    data = {"name": "hub", "input": [URL], "output": str(tmp_path / "out"), "images": images}
    config = write_config(tmp_path / "c.yaml", data)
    first = hub.push("org/photos", photos)
    assert f"commits: {URL} at {first}" in curation("run", "-c", config)
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["listing"]["commits"] == {URL: first}

    downloads = [asked for asked in hub.asked if "/resolve/" in asked]
    assert len({asked.split()[1] for asked in downloads}) == 4
    assert all(f"/resolve/{first}/" in asked for asked in downloads)
    (revisions,) = {asked for asked in hub.asked if asked.startswith("GET /api/datasets/org/photos/revision")}
    assert hub.asked.count(revisions) == 1  # what is meant is settled once, for all workers

    hub.asked.clear()
    second = hub.push("org/photos", photos | {"train/1.jpg": photos["train/0.jpg"]})
    assert f"commits: {URL} at {second}" in curation("run", "-c", config)
    assert {asked.split()[1] for asked in hub.asked if "/resolve/" in asked} == {
        f"/datasets/org/photos/resolve/{second}/train/1.jpg"
    }
    curation("table", "-c", config, "--to", tmp_path / "t.parquet")
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    in_files = [f"{URL}/train/{seed}.jpg" for seed in range(3)]
    assert sorted({row["uri"] for row in rows}) == [*in_files, f"tar://{URL}/more.tar#3.jpg"]
    assert {row["outcome"] for row in rows} == {"kept"}


def test_the_hub_is_no_output() -> None:
    data = {"name": "hub", "input": ["in"], "output": URL, "images": {"filters": ["color"]}}
    with pytest.raises(ConfigError, match=r"output: .*can't be an output.*curation publish"):
        parse_config(data, "here")
