"""Shards: what is in them, when they are rewritten, and that the usual loaders read them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from curation.errors import ConfigError
from curation.select import Kept
from curation.storage import open_storage
from tokenize_shards.document import parse
from tokenize_shards.shards import ShardConfig, ShardWriter, Written
from tokenize_shards.text import TextTokenizer

FOLDER = "shards/demo"
COLUMNS = (  # DESIGN.md, section 11, and the document itself
    "sample_id source_id source_uri kind start_s end_s split caption meta codes grid_t grid_h grid_w fps "
    "text_ids aesthetic_score text_coverage flow_score caption_model tokenizer license input_ids"
)


def kept_sample(number: int, *, unit: int = 0, **changed: Any) -> Kept:
    """Even numbers are images of 2 x 3 codes, odd ones clips of 2 x 4 x 5."""
    is_clip = number % 2 == 1
    columns = {
        "source_id": f"source-{number}",
        "source_uri": f"bucket/{number}.mp4",
        "kind": "clip" if is_clip else "image",
        "start_s": 1.5 if is_clip else None,
        "end_s": 14.0 if is_clip else None,
        "caption": f"the caption of {number}, <|image end|> and all",
        "caption_model": "captioner",
        "grid_t": 2 if is_clip else 1,
        "grid_h": 4 if is_clip else 2,
        "grid_w": 5 if is_clip else 3,
        "fps": 4.0 if is_clip else None,
        "aesthetic_score": 5.5,
        "text_coverage": None,
        "flow_score": 0.25 if is_clip else None,
        "tokenizer": "tokenizer@1",
        "license": "CC0",
    }
    return Kept(f"sample-{number}", unit, {**columns, **changed}, ("captions-1", "tokens-1"))


def grid_of(item: Kept) -> Any:
    shape = [item.columns[name] for name in ("grid_t", "grid_h", "grid_w")]
    seed = int(item.sample_id.removeprefix("sample-"))
    return np.random.default_rng(seed).integers(0, 32_768, shape).astype("<u2")


class Codes:
    """Reads a unit's codes from what was kept, and remembers which units were asked for."""

    def __init__(self, kept: list[Kept]) -> None:
        self._kept = kept
        self.asked: list[int] = []

    def __call__(self, unit: int) -> dict[str, bytes]:
        self.asked.append(unit)
        return {item.sample_id: grid_of(item).tobytes() for item in self._kept if item.unit == unit}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / FOLDER


@pytest.fixture
def write(tmp_path: Path, small_vocabulary: Path) -> Any:
    def _write(kept: list[Kept], **settings: Any) -> Written:
        writer = ShardWriter(ShardConfig(vocabulary=str(small_vocabulary), **settings))
        return writer.write(open_storage(str(tmp_path / "out")), FOLDER, kept, Codes(kept))

    return _write


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


SIX = [kept_sample(number) for number in range(6)]


@pytest.mark.parametrize("task", ["generation", "understanding"])
def test_documents_parse_back_to_caption_and_grid(
    write: Any, out: Path, small_vocabulary: Path, task: str
) -> None:
    write(SIX, task=task)
    rows, text = {row["sample_id"]: row for row in rows_of(out)}, TextTokenizer(small_vocabulary)
    assert rows.keys() == {item.sample_id for item in SIX}
    for item in SIX:
        row = rows[item.sample_id]
        document = parse(np.array(row["input_ids"], np.int32))
        np.testing.assert_array_equal(document.grid, grid_of(item))
        assert text.decode(document.caption_ids) == row["caption"] == item.columns["caption"]
        assert text.decode(document.meta_ids) == row["meta"]
        assert row["text_ids"] == document.caption_ids
        caption_is_first = row["input_ids"][1 : 1 + len(row["text_ids"])] == row["text_ids"]
        assert caption_is_first == (task == "generation")


def test_columns_of_a_row(write: Any, out: Path) -> None:
    write(SIX)
    assert pq.read_schema(next(out.glob("*.parquet"))).names == COLUMNS.split()
    for row in rows_of(out):
        item = next(item for item in SIX if item.sample_id == row["sample_id"])
        assert {name: row[name] for name in item.columns} == item.columns
        assert row["split"] == "train"
        assert row["codes"] == grid_of(item).tobytes()


def test_meta_by_hand(write: Any, out: Path) -> None:
    write([kept_sample(0), kept_sample(1)])
    # Emu3 gives "rows*columns" for images; a clip of 2 * 4 frames at 4 fps by this project's template.
    assert {row["sample_id"]: row["meta"] for row in rows_of(out)} == {
        "sample-0": "2*3",
        "sample-1": "4*5*2 4fps 2.0s",
    }


def test_meta_templates_are_settings(write: Any, out: Path) -> None:
    write(
        [kept_sample(0), kept_sample(1)],
        image_meta="{cols} by {rows}",
        clip_meta="{frames}@{fps}: {seconds}",
    )
    assert {row["meta"] for row in rows_of(out)} == {"3 by 2", "2@4: 2.0"}


def test_names_and_sizes_of_shards(write: Any, out: Path) -> None:
    written = write(SIX[:5], samples_per_shard=2)
    names = [f"train-0000{index}-of-00003.parquet" for index in range(3)]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", *names]
    assert [pq.read_metadata(out / name).num_rows for name in names] == [2, 2, 1]
    assert (written.num_shards, written.num_samples, written.changed) == (3, 5, True)


def test_manifest_tells_the_truth(write: Any, out: Path, small_vocabulary: Path) -> None:
    written = write(SIX[:5], samples_per_shard=2)
    manifest = json.loads((out / "manifest.json").read_text())
    shards = {shard["name"]: shard for shard in manifest["shards"]}
    assert shards.keys() == {path.name for path in out.glob("*.parquet")}
    for name, shard in shards.items():
        table = pq.read_table(out / name)
        assert shard["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert shard["size_bytes"] == (out / name).stat().st_size
        assert shard["num_samples"] == table.num_rows
        assert shard["num_tokens"] == sum(len(ids) for ids in table["input_ids"].to_pylist())
    # By hand: vision ids are 2 * (3 + 1) + 1 and 2 * (4 * (5 + 1) + 1); no merge shortens the metas.
    texts = sum(len(row["text_ids"]) + len(row["meta"]) for row in rows_of(out))
    assert manifest["num_tokens"] == written.num_tokens == texts + 3 * (9 + 5) + 2 * (50 + 5)
    assert manifest["num_samples"] == 5
    assert manifest["vocabulary_sha256"] == hashlib.sha256(small_vocabulary.read_bytes()).hexdigest()


def test_same_samples_in_any_order_give_the_same_bytes(write: Any, out: Path) -> None:
    kept = [kept_sample(number, unit=number // 3) for number in range(12)]
    found = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(kept, len(kept))
        assert write(shuffled, samples_per_shard=5).changed
        found.append(contents(out))
        (out / "manifest.json").unlink()
    assert found[0] == found[1] == found[2]


def test_seed_changes_the_order_alone(write: Any, out: Path) -> None:
    orders = []
    for seed in (0, 1):
        write([kept_sample(number) for number in range(12)], seed=seed)
        orders.append([row["sample_id"] for row in rows_of(out)])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != sorted(orders[0])


def test_groups_of_units_follow_each_other_and_each_unit_is_read_once(
    small_vocabulary: Path, tmp_path: Path, out: Path
) -> None:
    kept = [kept_sample(number, unit=number % 4) for number in range(16)]
    codes = Codes(kept)
    writer = ShardWriter(ShardConfig(vocabulary=str(small_vocabulary), units_per_group=2))
    writer.write(open_storage(str(tmp_path / "out")), FOLDER, kept, codes)
    units = [int(row["sample_id"].removeprefix("sample-")) % 4 for row in rows_of(out)]
    assert set(units[:8]) == {0, 1}
    assert set(units[8:]) == {2, 3}
    assert units[:8] != sorted(units[:8])
    assert sorted(codes.asked) == [0, 1, 2, 3]


def test_nothing_new_leaves_the_files_alone(
    write: Any, out: Path, tmp_path: Path, small_vocabulary: Path
) -> None:
    first = write(SIX, samples_per_shard=4)
    before = times(out)
    codes = Codes(SIX)
    writer = ShardWriter(ShardConfig(vocabulary=str(small_vocabulary), samples_per_shard=4))
    second = writer.write(open_storage(str(tmp_path / "out")), FOLDER, SIX[::-1], codes)
    assert times(out) == before
    assert codes.asked == []
    assert second == Written(first.num_shards, first.num_samples, first.num_tokens, changed=False)


def test_fewer_samples_replace_the_shards_and_nothing_else(write: Any, out: Path) -> None:
    write(SIX, samples_per_shard=2)
    (out / "README.md").write_text("the card")
    assert write(SIX[:3], samples_per_shard=2).changed
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "manifest.json",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert {row["sample_id"] for row in rows_of(out)} == {"sample-0", "sample-1", "sample-2"}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda: ([*SIX[1:], kept_sample(0, caption="another")], {}), id="caption"),
        pytest.param(lambda: ([*SIX[1:], kept_sample(0, license="MIT")], {}), id="license"),
        pytest.param(
            lambda: ([*SIX[1:], Kept("sample-0", 0, SIX[0].columns, ("captions-1", "tokens-2"))], {}),
            id="other tokens",
        ),
        pytest.param(lambda: (SIX, {"task": "understanding"}), id="task"),
        pytest.param(lambda: (SIX, {"image_meta": "{rows}x{cols}"}), id="meta"),
    ],
)
def test_changed_samples_or_settings_are_written_anew(write: Any, out: Path, changed: Any) -> None:
    write(SIX)
    before = contents(out)
    kept, settings = changed()
    assert write(kept, **settings).changed
    assert contents(out)["manifest.json"] != before["manifest.json"]


def test_missing_manifest_is_written_again(write: Any, out: Path) -> None:
    write(SIX)
    before = contents(out)
    (out / "manifest.json").unlink()
    assert write(SIX).changed
    assert contents(out) == before


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_damaged_shard_is_written_again(write: Any, out: Path, damage: str) -> None:
    write(SIX, samples_per_shard=3)
    before = contents(out)
    shard = out / "train-00001-of-00002.parquet"
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(before[shard.name][:-1])
    assert write(SIX, samples_per_shard=3).changed
    assert contents(out) == before


def test_write_that_breaks_off_leaves_no_manifest(
    write: Any, out: Path, tmp_path: Path, small_vocabulary: Path
) -> None:
    write(SIX, samples_per_shard=2)
    more = [*SIX, kept_sample(6, unit=1)]

    def codes_of(unit: int) -> dict[str, bytes]:
        if unit == 1:
            raise ConnectionError("the bucket is gone")
        return Codes(more)(unit)

    writer = ShardWriter(
        ShardConfig(vocabulary=str(small_vocabulary), samples_per_shard=2, units_per_group=1)
    )
    with pytest.raises(ConnectionError):
        writer.write(open_storage(str(tmp_path / "out")), FOLDER, more, codes_of)
    assert (out / "train-00000-of-00004.parquet").exists()
    assert not (out / "manifest.json").exists()
    assert write(more, samples_per_shard=2, units_per_group=1).changed
    assert len(rows_of(out)) == 7


def test_no_samples_give_an_empty_manifest(write: Any, out: Path) -> None:
    write(SIX)
    written = write([])
    assert (written.num_shards, written.num_samples, written.num_tokens) == (0, 0, 0)
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    assert not write([]).changed


def test_vocabulary_is_checked(small_vocabulary: Path) -> None:
    digest = hashlib.sha256(small_vocabulary.read_bytes()).hexdigest()
    assert ShardWriter(ShardConfig(vocabulary=str(small_vocabulary))).check() == digest
    pinned = ShardConfig(vocabulary=str(small_vocabulary), vocabulary_sha256=digest)
    assert ShardWriter(pinned).check() == digest
    with pytest.raises(ConfigError, match="sha256"):
        ShardWriter(ShardConfig(vocabulary=str(small_vocabulary), vocabulary_sha256="0" * 64)).check()
    with pytest.raises(ConfigError, match="nowhere"):
        ShardWriter(ShardConfig(vocabulary="nowhere.tiktoken")).check()


@pytest.mark.parametrize(
    "settings",
    [{"vocabulary": "v", "samples_per_shard": 0}, {"vocabulary": "v", "shuffle": True}, {}],
    ids=["no rows", "unknown key", "no vocabulary"],
)
def test_config_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ShardConfig(**settings)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_load_dataset_reads_them(write: Any, out: Path, tmp_path: Path) -> None:
    write(SIX, samples_per_shard=4)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(out / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == COLUMNS.split()
    expected = rows_of(out)
    assert [row["sample_id"] for row in loaded] == [row["sample_id"] for row in expected]
    assert [row["input_ids"] for row in loaded] == [row["input_ids"] for row in expected]
    assert loaded[0]["codes"] == expected[0]["codes"]


@pytest.mark.usefixtures("offline")
def test_load_dataset_reads_the_folder(write: Any, out: Path, tmp_path: Path) -> None:
    write(SIX, samples_per_shard=4)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert len(loaded["train"]) == 6
