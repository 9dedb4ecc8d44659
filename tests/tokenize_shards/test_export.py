"""Exports: others' readers find every sample in them, with its caption and its tokens."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from buckets import S3Server
from curation.errors import ConfigError, StorageError
from curation.registry import EXPORTS
from curation.stage import Column
from curation.storage import open_storage
from curation.storage.local import LocalStorage
from curation.tokenize_shards.documents.document import parse
from curation.tokenize_shards.shards.exports import export
from curation.tokenize_shards.shards.exports.lance import LanceExport
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
def test_emu3_lists_are_found_from_any_folder(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export("emu3", str(shards), "out")
    monkeypatch.chdir("/")
    listed = json.loads((tmp_path / "out/train.json").read_text())
    assert all((Path(listed["prefix"]) / path).is_file() for path in listed["path_list"])


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
    for path in (tmp_path / "one").glob("*.tar"):
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


@pytest.mark.usefixtures("offline")
def test_json_lines(shards: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert export("jsonl", str(shards), str(tmp_path / "out")).num_samples == 40
    expected = {name: {**row, "codes": grid_of(KEPT[name]).tolist()} for name, row in rows.items()}
    files = sorted((tmp_path / "out").glob("*.jsonl"))
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert {line["sample_id"]: line for line in lines} == expected
    named = {"train": str(tmp_path / "out/train-*.jsonl"), "validation": str(tmp_path / "out/val*.jsonl")}
    for loaded in (load(tmp_path, str(tmp_path / "out")), load(tmp_path, "json", data_files=named)):
        assert {row["sample_id"]: row for part in loaded.values() for row in part} == expected


def test_lance(shards: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export("lance", str(shards), str(out)).num_samples == 40
    for split in ("train", "validation"):
        dataset = lance.dataset(str(out / f"{split}.lance"))
        expected = {name: row for name, row in rows.items() if row["split"] == split}
        assert {row["sample_id"]: row for row in dataset.to_table().to_pylist()} == expected
        assert dataset.take([1], columns=["sample_id"]).num_rows == 1
    for path in (out / "train.lance/data").iterdir():
        path.unlink()
    with pytest.raises(StorageError, match=r"train\.lance can't be read"):
        LanceExport(LanceExport.Config()).count(open_storage(str(out)))


def test_lance_in_a_bucket(
    shards: Path, rows: dict[str, dict[str, Any]], bucket: str, s3_server: S3Server
) -> None:
    """Read by Lance's own client of buckets."""
    assert export("lance", str(shards), f"{bucket}/some/lance").num_samples == 40
    there = {**s3_server.environment, "AWS_ALLOW_HTTP": "true"}
    for split in ("train", "validation"):
        dataset = lance.dataset(f"{bucket}/some/lance/{split}.lance", storage_options=there)
        expected = {name: row for name, row in rows.items() if row["split"] == split}
        assert {row["sample_id"]: row for row in dataset.to_table().to_pylist()} == expected
    storage = open_storage(f"{bucket}/some/lance")
    for item in storage.list("train.lance/data"):
        storage.delete(item.key)
    with pytest.raises(StorageError, match=r"train\.lance can't be read"):
        LanceExport(LanceExport.Config()).count(storage)


READS_MDS = """
import json, sys
from streaming import StreamingDataset
found = {}
for split in ("train", "validation"):
    dataset = StreamingDataset(local=sys.argv[1], split=split, batch_size=1)
    for number in range(len(dataset)):
        sample = dataset[number]
        codes, ids = sample.pop("codes"), sample.pop("input_ids")
        assert (str(codes.dtype), str(ids.dtype)) == ("uint16", "int32")
        found[sample["sample_id"]] = {**sample, "codes": codes.tolist(), "input_ids": ids.tolist()}
print("FOUND" + json.dumps(found))
"""
WRITES_MDS = """
import json, sys
import numpy as np
from streaming import MDSWriter
arrays = {"codes": "ndarray:uint16", "input_ids": "ndarray:int32"}
columns = {"caption": "str", "row": "json", "sample_id": "str", **arrays}
samples = json.load(open(sys.argv[1]))
with MDSWriter(out=sys.argv[2], columns=columns, size_limit=None) as out:
    for sample in samples:
        values = {name: np.array(sample[name], kind.partition(":")[2]) for name, kind in arrays.items()}
        out.write({**sample, **values})
"""


def streaming(code: str, *args: Any) -> str:
    """What MosaicML's own package prints, in a process of its own: it leaves semaphores behind."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    ).stdout


@pytest.mark.slow
def test_mds(shards: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """MosaicML's reader finds every sample, and its writer makes the same bytes."""
    out = tmp_path / "out"
    assert export("mds", str(shards), str(out)).num_samples == 40
    found = json.loads(streaming(READS_MDS, out).partition("FOUND")[2])
    apart = {"codes", "caption", "sample_id"}
    expected = {
        name: {
            "sample_id": name,
            "caption": row["caption"],
            "codes": grid_of(KEPT[name]).tolist(),
            "input_ids": document_of(row).tolist(),
            "row": {key: value for key, value in row.items() if key not in apart},
        }
        for name, row in rows.items()
    }
    assert found == expected
    first = sorted(shards.glob("train-*.parquet"))[0]
    names = pq.read_table(first, columns=["sample_id"])["sample_id"].to_pylist()
    (tmp_path / "samples.json").write_text(json.dumps([expected[name] for name in names]))
    streaming(WRITES_MDS, tmp_path / "samples.json", tmp_path / "theirs")
    assert (out / "train/shard.00000.mds").read_bytes() == (tmp_path / "theirs/shard.00000.mds").read_bytes()
    theirs = json.loads((tmp_path / "theirs/index.json").read_text())["shards"][0]
    assert json.loads((out / "train/index.json").read_text())["shards"][0] == theirs


@pytest.fixture(scope="module")
def sparse(small_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of 30 images, of which the last alone has a score and a text; neither changes the order."""

    def write(known: str | None) -> Path:
        folder = tmp_path_factory.mktemp("sparse")
        kept = [kept_sample(number, aesthetic_score=None) for number in range(0, 60, 2)]
        for item in kept:
            if item.sample_id == known:
                item.columns.update(aesthetic_score=5.5, alt_text="a text")
        writer = ShardWriter(ShardConfig(vocabulary=str(small_vocabulary)))
        writer.write(open_storage(str(folder)), "", FakeLedger(kept))
        return folder

    order = pq.read_table(next(write(None).glob("train-*")))["sample_id"].to_pylist()
    return write(order[-1])


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["datasets", "jsonl", "webdataset"])
def test_what_only_the_last_sample_has_is_loaded(sparse: Path, tmp_path: Path, name: str) -> None:
    """`datasets` would take the types from the first rows, where these columns hold nothing."""
    export(name, str(sparse), str(tmp_path / "out"))
    found = [row.get("json", row) for row in load(tmp_path, str(tmp_path / "out"), split="train")]
    assert [(row["aesthetic_score"], row["alt_text"]) for row in found] == [(None, None)] * 29 + [
        (5.5, "a text")
    ]


@pytest.mark.parametrize("name", EXPORTS.built_in)
def test_what_lies_beside_the_data(shards: Path, tmp_path: Path, name: str) -> None:
    """A record of every file, by which those of a withdrawn sample are found, and a card."""
    out = tmp_path / "out"
    done = export(name, str(shards), str(out), **({"context": 256} if name == "packed" else {}))
    record = json.loads((out / "export.json").read_text())
    assert (record["format"], record["num_samples"]) == (name, done.num_samples)
    assert record["selection"] == json.loads((shards / "manifest.json").read_text())["selection"]
    present = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    listed = {file["name"]: file for file in record["files"]}
    assert listed.keys() == present - {"export.json", "README.md", "croissant.json"}
    for path, file in listed.items():
        data = (out / path).read_bytes()
        assert (file["size_bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    of_shards = {file["shard"] for file in listed.values()} - {None}
    assert of_shards <= {path.name for path in shards.glob("*.parquet")}
    if name not in ("packed", "lance"):
        assert len(of_shards) == len(list(shards.glob("*.parquet")))
    card = (out / "README.md").read_text()
    assert f"{done.num_samples} samples of 40" in card
    for reason in done.left_out:
        assert reason in card or not done.left_out[reason]


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


@pytest.mark.parametrize("name", sorted(EXPORTS.built_in.keys() - {"lance"}))
def test_lost_file_is_noticed(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    written = []
    real, really_creating = LocalStorage.write, LocalStorage.creating

    def forgets(key: str) -> bool:
        written.append(key)
        return len(written) == 2

    def forgetful(storage: LocalStorage, key: str, data: bytes, expect: str | None = None) -> None:
        if not forgets(key):
            real(storage, key, data, expect)

    @contextmanager
    def forgetfully_creating(storage: LocalStorage, key: str) -> Iterator[Any]:
        with io.BytesIO() if forgets(key) else really_creating(storage, key) as file:
            yield file

    monkeypatch.setattr(LocalStorage, "write", forgetful)
    monkeypatch.setattr(LocalStorage, "creating", forgetfully_creating)
    with pytest.raises(StorageError):
        export(name, str(shards), str(tmp_path / "out"), **({"context": 256} if name == "packed" else {}))


def test_shards_with_too_few_rows_are_noticed(shards: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(shards, short)
    path = sorted(short.glob("train-*"))[0]
    pq.write_table(pq.read_table(path)[1:], path)
    with pytest.raises(StorageError, match="curation verify"):
        export("webdataset", str(short), str(tmp_path / "out"))


def flip_a_bit_of_codes(path: Path) -> None:
    """Change one code of a shard; what Parquet reads without checksums is a grid like any other."""
    codes = pq.read_metadata(path).row_group(0)
    chunk = next(
        column for column in map(codes.column, range(codes.num_columns)) if column.path_in_schema == "codes"
    )
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 8] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", sorted(EXPORTS.built_in))
def test_damaged_shard_is_not_exported(shards: Path, tmp_path: Path, name: str) -> None:
    damaged = Path(shutil.copytree(shards, tmp_path / "damaged"))
    path = sorted(damaged.glob("train-*"))[1]
    flip_a_bit_of_codes(path)
    with pytest.raises(StorageError, match=rf"{path.name} is not as manifest.json says"):
        export(name, str(damaged), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_shards_that_are_written_anew_meanwhile_make_no_export(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Path(shutil.copytree(shards, tmp_path / "ours"))
    real = EXPORTS.load("jsonl").write

    def write(self: Any, *args: Any) -> Any:
        done = real(self, *args)
        (ours / "manifest.json").unlink()  # the first thing that a run does
        return done

    monkeypatch.setattr(EXPORTS.load("jsonl"), "write", write)
    with pytest.raises(StorageError, match="a run wrote these shards anew meanwhile"):
        export("jsonl", str(ours), str(tmp_path / "out"))
    assert not (tmp_path / "out/export.json").exists()


def test_refusals(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'webdataset'"):
        export("webdatset", str(shards), str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="no finished shards"):
        export("emu3", str(tmp_path), str(tmp_path / "out"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        export("emu3", str(shards), str(tmp_path / "full"))
    with pytest.raises(ConfigError, match=r"packed\.context: input should be less than or equal to 16777216"):
        export("packed", str(shards), str(tmp_path / "out"), context=10**14)
    export("packed", str(shards), str(tmp_path / "packed"), context=256)
    with pytest.raises(ConfigError, match="is packed"):
        export("emu3", str(tmp_path / "packed"), str(tmp_path / "out"))
    (tmp_path / "link").symlink_to(shards)
    for inside in (shards, shards / "emu3", shards.parent / "." / shards.name / "emu3", tmp_path / "link/x"):
        with pytest.raises(ConfigError, match=r"is inside of .*, where `curation verify` wants nothing but"):
            export("emu3", str(shards), str(inside))
    assert not (shards / "emu3").exists()
    export("jsonl", str(shards), str(shards / "../beside"))


def test_command(shards: Path, tmp_path: Path) -> None:
    said = curation("export", "emu3", shards, "--to", tmp_path / "out")
    assert f"{tmp_path / 'out'}: 20 samples in 22 files, counted again" in said
    assert "left out: 20 clips, which the layout has no place for" in said
    assert "did you mean 'datasets'" in curation("export", "dataset", shards, "--to", tmp_path / "x", code=2)
    assert "Missing option '--to'" in curation("export", "emu3", shards, code=2)
