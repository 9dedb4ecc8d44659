"""Exports: others' readers find every sample in them, with its caption and its tokens."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curation.errors import ConfigError, StorageError
from curation.registry import EXPORTS
from curation.stage import Column
from curation.storage import open_storage
from curation.storage.local import LocalStorage
from curation.tokenize_shards.documents.document import parse
from curation.tokenize_shards.shards.exports import export
from curation.tokenize_shards.shards.manifest import read_manifest
from curation.tokenize_shards.shards.rows import PACK_SCHEMA, document_of
from curation.tokenize_shards.shards.stream import ShardStream
from curation.tokenize_shards.shards.verify import verify
from curation.tokenize_shards.shards.writer import ShardConfig, ShardWriter
from datasets_media import contents, curation
from shard_samples import FakeLedger, grid_of, kept_sample

RANK = {"rank": Column(pa.int16(), "What a stage outside the package exports.", exported=True)}
KEPT = {item.sample_id: item for item in (kept_sample(number, rank=number) for number in range(40))}


@pytest.fixture(scope="module")
def shards(small_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images and 20 clips, in shards of both splits."""
    folder = tmp_path_factory.mktemp("shards")
    config = ShardConfig(vocabulary=str(small_vocabulary), shard_bytes=4000, validation_fraction=0.2)
    ShardWriter(config).write(open_storage(str(folder)), "", FakeLedger(KEPT.values(), exported=RANK))
    return folder


@pytest.fixture(scope="module")
def rows(shards: Path) -> dict[str, dict[str, Any]]:
    found = [row for path in shards.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["sample_id"]: row for row in found}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def load(tmp_path: Path, *args: Any, **settings: Any) -> Any:
    return datasets.load_dataset(*args, cache_dir=str(tmp_path / "cache"), **settings)


def test_emu3_layout(shards: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    done = export("emu3", str(shards), str(tmp_path / "out"))
    assert done.num_samples == 20
    assert done.left_out == {"clips, which the layout has no place for": 20}
    seen = set()
    for split in ("train", "validation"):
        # As Emu3's data set class reads it: a list, and each file by prefix and path.
        listed = json.loads((tmp_path / f"out/{split}.json").read_text())
        for path in listed["path_list"]:
            sample = torch.load(Path(listed["prefix"]) / path, weights_only=True)
            assert sample.keys() == {"name", "images", "texts"}
            item = KEPT[sample["name"]]
            height, width = sample["images"].shape
            assert (height, width) == (item.columns["grid_h"], item.columns["grid_w"])
            text = "".join(f"<|visual token {code:0>6d}|>" for row in sample["images"] for code in row)
            numbers = [int(part.removeprefix("<|visual token ")) for part in text.split("|>")[:-1]]
            assert numbers == grid_of(item).reshape(-1).tolist()
            assert sample["texts"] == item.columns["caption"]
            assert rows[sample["name"]]["split"] == split
            seen.add(sample["name"])
    assert seen == {name for name, item in KEPT.items() if item.columns["kind"] == "image"}


@pytest.mark.usefixtures("offline")
def test_webdataset_as_datasets_reads_it(
    shards: Path, rows: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert export("webdataset", str(shards), str(tmp_path / "out")).num_samples == 40
    seen = set()
    for split in ("train", "validation"):
        files = sorted(str(path) for path in (tmp_path / "out").glob(f"{split}-*.tar"))
        for sample in load(tmp_path, "webdataset", data_files={split: files}, split=split):
            row = rows[sample["__key__"]]
            assert row["split"] == split
            assert np.array_equal(sample["npy"], grid_of(KEPT[sample["__key__"]]))
            expected = {name: value for name, value in row.items() if name != "codes"}
            assert {name: sample["json"][name] for name in expected} == expected
            seen.add(sample["__key__"])
    assert seen == KEPT.keys()


def test_tars_depend_on_nothing_but_the_samples(shards: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        export("webdataset", str(shards), str(tmp_path / name))
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    for path in (tmp_path / "one").iterdir():
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (
                    0,
                    0,
                    0,
                    "",
                    0o644,
                )


@pytest.mark.usefixtures("offline")
def test_datasets(shards: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert export("datasets", str(shards), str(tmp_path / "out")).num_samples == 40
    loaded = load(tmp_path, str(tmp_path / "out"))
    assert set(loaded) == {"train", "validation"}
    seen = set()
    for split, part in loaded.items():
        for sample in part:
            row = rows[sample["sample_id"]]
            assert sample["split"] == split == row["split"]
            assert sample["input_ids"] == document_of(row).tolist()
            assert sample["codes"] == grid_of(KEPT[sample["sample_id"]]).tolist()
            assert (sample["caption"], sample["rank"]) == (row["caption"], row["rank"])
            seen.add(sample["sample_id"])
    assert seen == KEPT.keys()


@pytest.mark.usefixtures("offline")
def test_packed(shards: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export("packed", str(shards), str(out), context=256)
    assert (done.num_samples, done.left_out.total()) == (40, 0)
    assert verify(open_storage(str(out)), "").problems == []
    seen: set[str] = set()
    for split in ("train", "validation"):
        direct = list(ShardStream(str(shards), split=split, context=256))
        packed = list(ShardStream(str(out), split=split))
        assert {example.sample_ids for example in packed} == {example.sample_ids for example in direct}
        for example in packed:
            pack = example.pack
            assert len(pack.input_ids) == 256
            for number, name in enumerate(example.sample_ids):
                ids = pack.input_ids[pack.cu_seqlens[number] : pack.cu_seqlens[number + 1]]
                assert np.array_equal(ids, document_of(rows[name]))
                assert rows[name]["split"] == split
        seen.update(name for example in packed for name in example.sample_ids)
    assert seen == KEPT.keys()
    files = str(out / "train-*.parquet")
    assert load(tmp_path, "parquet", data_files=files, split="train")["input_ids"]
    with pytest.raises(ConfigError, match="packed for a context of 256, not of 512"):
        ShardStream(str(out), context=512)


def test_packed_leaves_out_what_is_too_long(
    shards: Path, rows: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    done = export("packed", str(shards), str(tmp_path / "out"), context=80)
    too_long = sum(row["num_tokens"] > 80 for row in rows.values())
    assert 0 < too_long < 40
    assert done.left_out == {"documents longer than 80 ids": too_long}
    assert done.num_samples == 40 - too_long
    nothing = export("packed", str(shards), str(tmp_path / "none"), context=10)
    assert (nothing.num_samples, nothing.num_files) == (0, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: {**row, "lengths": [*row["lengths"][:-1], row["lengths"][-1] - 1]},
        lambda row: {
            **row,
            "lengths": [row["lengths"][0] + 1, *row["lengths"][1:-1], row["lengths"][-1] - 1],
        },
        lambda row: {**row, "input_ids": [151_850, *row["input_ids"][1:]]},
        lambda row: {**row, "sample_ids": row["sample_ids"][1:]},
    ],
)
def test_verify_reads_packs(shards: Path, tmp_path: Path, change: Any) -> None:
    import hashlib

    export("packed", str(shards), str(tmp_path / "out"), context=256)
    path = sorted((tmp_path / "out").glob("train-*"))[0]
    first, *rest = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([change(first), *rest], schema=PACK_SCHEMA), path)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    manifest["shards"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    problems = verify(open_storage(str(tmp_path / "out")), "").problems
    assert any(first["sample_ids"][-1] in line for line in problems)


def test_packed_twice_gives_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        export("packed", str(shards), str(tmp_path / name), context=256)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    manifest = read_manifest(open_storage(str(tmp_path / "one")), "")
    assert manifest is not None
    assert len(manifest.shards) > 2
    rows = [row for path in (tmp_path / "one").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert all(parse(np.array(row["input_ids"][: row["lengths"][0]], np.int32)) for row in rows)


@pytest.mark.parametrize("name", EXPORTS.built_in)
def test_lost_file_is_noticed(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    written = []
    real = LocalStorage.write

    def forgetful(storage: LocalStorage, key: str, data: bytes, expect: str | None = None) -> None:
        written.append(key)
        if len(written) != 2:
            real(storage, key, data, expect)

    monkeypatch.setattr(LocalStorage, "write", forgetful)
    with pytest.raises(StorageError):
        export(name, str(shards), str(tmp_path / "out"), **({"context": 256} if name == "packed" else {}))


def test_shards_with_too_few_rows_are_noticed(shards: Path, tmp_path: Path) -> None:
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = sorted(tmp_path.glob("train-*"))[0]
    pq.write_table(pq.read_table(path)[1:], path)
    with pytest.raises(StorageError, match="curation verify"):
        export("webdataset", str(tmp_path), str(tmp_path / "out"))


def test_refusals(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'webdataset'"):
        export("webdatset", str(shards), str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="no finished shards"):
        export("emu3", str(tmp_path), str(tmp_path / "out"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        export("emu3", str(shards), str(tmp_path / "full"))
    export("packed", str(shards), str(tmp_path / "packed"), context=256)
    with pytest.raises(ConfigError, match="is packed"):
        export("emu3", str(tmp_path / "packed"), str(tmp_path / "out"))


def test_command(shards: Path, tmp_path: Path) -> None:
    said = curation("export", "emu3", shards, "--to", tmp_path / "out")
    assert f"{tmp_path / 'out'}: 20 samples in 22 files, counted again" in said
    assert "left out: 20 clips, which the layout has no place for" in said
    assert "did you mean 'datasets'" in curation("export", "dataset", shards, "--to", tmp_path / "x", code=2)
    assert "Missing option '--to'" in curation("export", "emu3", shards, code=2)
