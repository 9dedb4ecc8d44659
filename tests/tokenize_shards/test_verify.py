"""Verification: sound shards pass, and every kind of damage is found and named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.storage import open_storage
from curation.tokenize_shards.shards.rows import SCHEMA
from curation.tokenize_shards.shards.verify import verify
from curation.tokenize_shards.shards.writer import ShardConfig, ShardWriter
from datasets_media import curation
from shard_samples import FOLDER, FakeLedger, kept_sample

TRAIN = "train-00001-of-00005.parquet"


@pytest.fixture(scope="module")
def sound(small_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 samples of 20 sources: five shards of training, one of validation."""
    root = tmp_path_factory.mktemp("sound")
    kept = [kept_sample(number, source_id=f"source-{number // 2}") for number in range(40)]
    config = ShardConfig(vocabulary=str(small_vocabulary), shard_bytes=3000, validation_fraction=0.2)
    ShardWriter(config).write(open_storage(str(root)), FOLDER, FakeLedger(kept))
    (root / FOLDER / "README.md").write_text("the card")
    return root / FOLDER


@pytest.fixture
def shards(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "shards")


def problems(folder: Path) -> list[str]:
    return verify(open_storage(str(folder)), "").problems


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change a shard's rows, and the manifest's digest with it, as a faulty writer would."""
    rows = change(pq.read_table(path).to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    shard = next(shard for shard in manifest["shards"] if shard["name"] == path.name)
    data = path.read_bytes()
    shard |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), "num_samples": len(rows)}
    shard["num_tokens"] = sum(row["num_tokens"] for row in rows)
    shard["media_s"] = sum((row["end_s"] or 0) - (row["start_s"] or 0) for row in rows)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


def with_first(**changed: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{**rows[0], **changed}, *rows[1:]]


def test_sound_shards(shards: Path, sound: Path) -> None:
    found = verify(open_storage(str(shards)), "")
    assert found.problems == []
    rows = [row for path in shards.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert (found.num_shards, found.num_samples) == (6, 40)
    assert found.num_tokens == sum(row["num_tokens"] for row in rows)
    # The same by their place in an output.
    assert verify(open_storage(str(sound.parents[1])), FOLDER) == found


@pytest.mark.parametrize("place", [4, 500, -30])
def test_flipped_bit(shards: Path, place: int) -> None:
    data = bytearray((shards / TRAIN).read_bytes())
    data[place] ^= 1
    (shards / TRAIN).write_bytes(data)
    (said,) = problems(shards)
    assert said == f"{TRAIN} is damaged: its sha256 is not the one in manifest.json"


def test_cut_off_shard(shards: Path) -> None:
    data = (shards / TRAIN).read_bytes()
    (shards / TRAIN).write_bytes(data[:-1])
    (said,) = problems(shards)
    assert f"{len(data) - 1} bytes instead of {len(data)}" in said


def test_missing_and_stray_files(shards: Path) -> None:
    (shards / TRAIN).unlink()
    (shards / ".writing-abc").write_bytes(b"PAR1")
    (shards / "train-00000-of-00009.parquet").write_bytes(b"PAR1")
    (shards / "train-00001-of-00005.parquet.tmp").write_bytes(b"PAR1")
    assert problems(shards) == [
        f"{TRAIN} is missing",
        "train-00000-of-00009.parquet is not in manifest.json",
        "train-00001-of-00005.parquet.tmp is not in manifest.json",
        ".writing-abc is a half-written file of a killed run",
    ]


def test_shard_that_the_manifest_forgot(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["name"] != TRAIN]
    (shards / "manifest.json").write_text(json.dumps(manifest))
    said = problems(shards)
    assert f"{TRAIN} is not in manifest.json" in said
    assert "the train shards in manifest.json are not numbered from 0 to 3" in said
    assert any("the samples are not those of manifest.json" in line for line in said)


@pytest.mark.parametrize("text", [None, "{", '{"shards": [{"name": "x"}]}', "[]"])
def test_no_manifest_or_a_damaged_one(shards: Path, text: str | None) -> None:
    (shards / "manifest.json").unlink()
    if text is not None:
        (shards / "manifest.json").write_text(text)
    (said,) = problems(shards)
    assert "manifest.json" in said


@pytest.mark.parametrize("name", ["num_samples", "num_tokens", "media_s"])
def test_wrong_number_in_the_manifest(shards: Path, name: str) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][1][name] += 1
    (shards / "manifest.json").write_text(json.dumps(manifest))
    (said,) = problems(shards)
    assert said.startswith(f"{TRAIN} has {name} ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_first(codes=b"\xff" * 12, grid_t=1, grid_h=2, grid_w=3), "code 65535 is beyond the codebook"),
        (with_first(codes=b"\x00"), "is no document: 1 bytes are no grid"),
        (with_first(text_ids=[5, 151_852]), "is no document"),
        (with_first(meta_ids=[151_643]), "is no document"),
        (with_first(num_tokens=7), "its row says 7"),
        (with_first(split="validation"), "is of the validation split"),
        (with_first(sample_id="other"), "the samples are not those of manifest.json"),
        (lambda rows: rows[1:], "the samples are not those of manifest.json"),
        (lambda rows: [*rows, rows[0]], "is there 2 times"),
    ],
)
def test_shards_that_break_the_rules(shards: Path, change: Any, words: str) -> None:
    rewrite(shards / TRAIN, change)
    assert any(re.search(words, line) for line in problems(shards))


def test_source_in_both_splits(shards: Path) -> None:
    (validation,) = shards.glob("validation-*.parquet")
    source = pq.read_table(validation)["source_id"][0].as_py()
    rewrite(shards / TRAIN, with_first(source_id=source))
    assert problems(shards) == [f"1 sources are in both splits, such as {source}"]


def test_other_columns(shards: Path) -> None:
    table = pq.read_table(shards / TRAIN).drop_columns(["license"])
    rewrite(shards / TRAIN, list)
    pq.write_table(table, shards / TRAIN)
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = hashlib.sha256((shards / TRAIN).read_bytes()).hexdigest()
    (shards / "manifest.json").write_text(json.dumps(manifest))
    assert problems(shards) == [f"{TRAIN} has other columns than this version writes"]


def test_command(shards: Path) -> None:
    assert "6 shards, 40 samples" in curation("verify", shards)
    with (shards / TRAIN).open("r+b") as file:
        file.write(b"X")
    said = curation("verify", shards, code=1)
    assert f"{TRAIN} is damaged" in said
    assert "1 problems; sound: 5 shards" in said


def test_command_without_shards(tmp_path: Path) -> None:
    assert "there is no such folder" in curation("verify", tmp_path / "none", code=2)
    assert "name either a folder" in curation("verify", code=2)
    assert "name either a folder" in curation("verify", tmp_path, "-c", "x.yaml", code=2)
    (tmp_path / "x").write_text("")
    assert "holds no shards" in curation("verify", tmp_path, code=2)
    (tmp_path / "train-00000-of-00001.parquet").write_text("")
    assert "manifest.json is missing" in curation("verify", tmp_path, code=1)
