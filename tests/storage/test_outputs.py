"""Outputs in buckets: the same bytes as in a folder, and every command that reads them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

import buckets
from buckets import S3Server
from datasets_media import config_data, contents, curation, environment, write_config


@pytest.fixture(scope="module")
def finished(
    media: Path, vocabulary: Path, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, Path, str]:
    """Configuration, output in a bucket, the same in a folder, and what the run said."""
    folder = tmp_path_factory.mktemp("outputs")
    url = f"{s3_server.new_bucket()}/some/out put"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        data = config_data(media, folder / "out", vocabulary)
        data["run"] |= {"report_samples": 1}
        config = write_config(folder / "c.yaml", data)
        curation("run", "-c", config)
        said = curation("run", "-c", config, "--output", url)
    return config, url, folder / "out", said


@pytest.fixture(autouse=True)
def reachable(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def shards(finished: tuple[Path, str, Path, str]) -> str:
    return f"{finished[1]}/shards/small"


def test_shards_and_card_are_those_of_a_folder(
    finished: tuple[Path, str, Path, str], s3_server: S3Server
) -> None:
    _, url, folder, said = finished
    in_bucket = buckets.contents(s3_server, url)
    for top in ("shards", "ledger", "sources"):
        here = contents(folder / top)
        there = {
            key.removeprefix(f"{top}/"): data for key, data in in_bucket.items() if key.startswith(f"{top}/")
        }
        assert here.keys() == there.keys()
        assert here
        if top == "shards":
            assert here == there
    for place in ("report/index.html", "run.json", "shards/small", "shards/small/README.md"):
        assert f"{url}/{place}" in said


def test_run_again_finds_everything(finished: tuple[Path, str, Path, str], s3_server: S3Server) -> None:
    config, url, _, _ = finished
    before = buckets.contents(s3_server, url)
    assert "nothing was missing" in curation("run", "-c", config, "--output", url)
    assert buckets.contents(s3_server, url) == before


def test_moved_threshold_needs_no_media(finished: tuple[Path, str, Path, str], s3_server: S3Server) -> None:
    config, url, _, _ = finished
    change = ("--set", "videos.scenes.min_clip_s=5", "--set", "name=moved")  # two of the three clips last 3 s
    assert "nothing was missing" in curation("run", "-c", config, "--output", url, *change)
    moved, small = (buckets.contents(s3_server, f"{url}/shards/{name}") for name in ("moved", "small"))
    before, after = (json.loads(found["manifest.json"])["num_samples"] for found in (small, moved))
    assert after < before


@pytest.mark.parametrize("command", ["status", "report", "explain"])
def test_commands_that_look(finished: tuple[Path, str, Path, str], command: str) -> None:
    config, url, folder, _ = finished
    more = ("long.mp4",) if command == "explain" else ()
    here = curation(command, *more, "-c", config)
    there = curation(command, *more, "-c", config, "--output", url)
    assert there == here.replace(str(folder), url)


def test_table_and_preview_into_the_bucket(
    finished: tuple[Path, str, Path, str], s3_server: S3Server
) -> None:
    config, url, _, _ = finished
    top = url.rpartition("/")[0]
    for name in ("t.parquet", "t.csv"):
        curation("table", "-c", config, "--output", url, "--to", f"{top}/tables/{name}")
    curation("preview", "long.mp4", "-c", config, "--output", url, "--to", f"{top}/tables/p.html")
    written = buckets.contents(s3_server, f"{top}/tables")
    assert written.keys() == {"t.parquet", "t.csv", "p.html"}
    table = pq.read_table(io.BytesIO(written["t.parquet"]))
    assert pcsv.read_csv(io.BytesIO(written["t.csv"])).num_rows == table.num_rows > 10
    assert b"<html" in written["p.html"]


def test_verify_and_exports(
    finished: tuple[Path, str, Path, str], shards: str, s3_server: S3Server, tmp_path: Path
) -> None:
    _, url, folder, _ = finished
    here = curation("verify", folder / "shards/small")
    assert curation("verify", shards) == here.replace(str(folder), url)
    for name in ("webdataset", "packed", "datasets"):
        curation("export", name, shards, "--to", f"{url}-{name}")
        curation("export", name, folder / "shards/small", "--to", tmp_path / name)
        assert buckets.contents(s3_server, f"{url}-{name}") == contents(tmp_path / name)
    assert "not empty" in curation("export", "packed", shards, "--to", f"{url}-packed", code=2)


def test_verify_finds_what_is_missing_and_gone(
    finished: tuple[Path, str, Path, str], shards: str, s3_server: S3Server
) -> None:
    copy = f"{s3_server.new_bucket()}/out"
    files = s3_server.files()
    found = buckets.contents(s3_server, finished[1])
    victim = next(key for key in found if key.startswith("shards/small/") and key.endswith(".parquet"))
    for key, data in found.items():
        if key != victim:
            with files.open_output_stream(f"{copy.removeprefix('s3://')}/{key}") as file:
                file.write(data)
    assert "is missing" in curation("verify", f"{copy}/shards/small", code=1)


def test_loader_with_workers_that_are_forked(shards: str, finished: tuple[Path, str, Path, str]) -> None:
    """In a process of its own, as this one has used buckets, and its forked children can't."""
    script = """
import sys
from torch.utils.data import DataLoader
from curation.tokenize_shards.shards.loader import ShardDataset, collate_examples
dataset = ShardDataset(sys.argv[1], context=512)
loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collate_examples)
print([batch["input_ids"].tolist() for batch in loader])
"""
    said = []
    for folder in (shards, str(finished[2] / "shards/small")):
        words = [sys.executable, "-c", script, folder]
        done = subprocess.run(
            words, env=environment(), capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(said[0]) > 512


def test_compact_and_gc(finished: tuple[Path, str, Path, str], s3_server: S3Server) -> None:
    config, url, _, _ = finished
    status = curation("status", "-c", config, "--output", url)
    assert "files merged" in curation("compact", "-c", config, "--output", url)
    assert curation("status", "-c", config, "--output", url) == status
    said = curation("gc", "-c", config, "--output", url, "--yes")
    assert "shards/moved" in said or "nothing is unused" in said
    assert "nothing is unused" in curation("gc", "-c", config, "--output", url)
    assert curation("status", "-c", config, "--output", url) == status
