"""Names that come from data lead nowhere but into the input, and out of no output."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.config import parse_config
from curation.errors import ConfigError, DamagedFileError, StorageError
from curation.media.probe import probe
from curation.records import Source
from curation.storage import Storage, open_storage
from curation.tokenize_shards.shards.exports import export
from curation.tokenize_shards.shards.manifest import read_manifest
from datasets_media import Bench, write_photo
from loopback import LoopbackServer, QuietHandler


def _of_hub(request: pytest.FixtureRequest) -> Storage:
    request.getfixturevalue("hub").push("org/photos", {"x": b"secret", "in/a.txt": b"a"})
    return open_storage("hf://datasets/org/photos/in")


STORAGES: dict[str, Callable[[pytest.FixtureRequest], Storage]] = {
    "folder": lambda request: open_storage(str(request.getfixturevalue("tmp_path") / "out")),
    "bucket": lambda request: open_storage(f"{request.getfixturevalue('bucket')}/in"),
    "hub": _of_hub,
}


def bench_of(tmp_path: Path) -> Bench:
    return Bench(
        {
            "name": "small",
            "input": [str(tmp_path / "in")],
            "output": str(tmp_path / "out"),
            "images": {"filters": ["resolution"]},
        }
    )


def write_csv(path: Path, names: list[str]) -> None:
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["file_name", "text"], ["own.jpg", "a"], *([name, "a"] for name in names)]
        )


def write_jsonl(path: Path, names: list[str]) -> None:
    lines = [json.dumps({"file_name": name, "text": "a"}) for name in ["own.jpg", *names]]
    path.with_suffix(".jsonl").write_text("\n".join(lines))


def write_parquet(path: Path, names: list[str]) -> None:
    table = pa.table({"file_name": ["own.jpg", *names], "text": ["a"] * (len(names) + 1)})
    pq.write_table(table, path.with_suffix(".parquet"))


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_a_list_names_nothing_outside_the_input(
    tmp_path: Path, write: Callable[[Path, list[str]], None]
) -> None:
    asked: list[str] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send(404, b"")

    server = LoopbackServer(Handler)
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "secret.jpg", 5)
    write_photo(tmp_path / "in/own.jpg", 6)
    names = [
        "../secret.jpg",
        "a/../../secret.jpg",
        f"{tmp_path}/secret.jpg",
        f"file://{tmp_path}/secret.jpg",
        f"{server.url}/a.jpg",
        "http://169.254.169.254/latest/a.jpg",
        "s3://other/secret.jpg",
        f"tar://{tmp_path}/x.tar#secret.jpg",
        "/etc/passwd",
    ]
    write(tmp_path / "in/metadata", names)
    bench = bench_of(tmp_path)
    bench.run()
    server.stop()
    sources = [source for unit in bench.ledger.units() for source in bench.ledger.sources(unit)]
    secret = Source(source_id="x", uri="x", kind="image", size_bytes=0, etag="")
    content = probe(secret, tmp_path / "secret.jpg").content_hash
    assert content not in {source.content_hash for source in sources}
    assert [source.uri for source in sources if source.ok] == [f"{tmp_path}/in/own.jpg"]
    assert len([source for source in sources if not source.ok]) == len(names)
    assert asked == []


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", "\\..\\secret.jpg"]
)
def test_a_member_of_a_tar_is_only_a_name(tmp_path: Path, name: str) -> None:
    """Nothing is unpacked; what the member holds is read under the tar's own name."""
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "0.jpg", 5)
    with tarfile.open(tmp_path / "in/a.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        data = (tmp_path / "0.jpg").read_bytes()
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    before = {path for path in tmp_path.rglob("*") if path.suffix == ".jpg"}
    bench = bench_of(tmp_path)
    bench.run()
    (source,) = bench.ledger.sources(0)
    assert source.uri.startswith(f"tar://{tmp_path}/in/a.tar#")
    assert {path for path in tmp_path.rglob("*") if path.suffix == ".jpg"} == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_a_tar_leads_nowhere(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "in/own.jpg", 6)
    write_photo(tmp_path / "secret.jpg", 5)
    with tarfile.open(tmp_path / "in/a.tar", "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.type, member.linkname = kind, f"{tmp_path}/secret.jpg"
        archive.addfile(member)
    bench = bench_of(tmp_path)
    bench.run()
    assert bench.outcomes() == {"own.jpg": "rejected width_below_min"}


@pytest.mark.parametrize("key", ["../x", "/tmp/x", "a/../../x", "..", "../../../../other/resolve/main/x"])
@pytest.mark.parametrize("place", ["folder", "bucket", "hub"])
def test_no_key_leads_out_of_a_folder(
    request: pytest.FixtureRequest, tmp_path: Path, place: str, key: str
) -> None:
    storage = STORAGES[place](request)
    acts = [storage.read, storage.find, storage.open]
    acts += [] if place == "hub" else [storage.delete, lambda key: storage.write(key, b"x")]
    for act in acts:
        with pytest.raises(StorageError, match="leads out of"):
            act(key)
    if place == "folder":
        with pytest.raises(StorageError, match="leads out of"):
            storage.list(key)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../a", "a/b", "/a", "..", ".hidden", "a b", ""])
def test_the_name_of_a_dataset_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        parse_config({"name": name, "input": ["in"], "output": "out", "images": {"filters": ["resolution"]}})


def foreign_shards(folder: Path, *, shard: str, sample_id: str) -> Path:
    """Shards as somebody else may have made them."""
    folder.mkdir()
    columns = {"sample_id": [sample_id], "kind": ["image"], "codes": [b"\0\0"], "caption": ["a"]}
    sizes = {"grid_t": [1], "grid_h": [1], "grid_w": [1]}
    file = folder / Path(shard).name
    pq.write_table(pa.table(columns | sizes), file)
    record = {
        "selection": "x",
        "samples": "x",
        "vocabulary_sha256": "x",
        "context": None,
        "shards": [
            {
                "name": shard,
                "split": "train",
                "num_samples": 1,
                "num_tokens": 1,
                "num_row_groups": 1,
                "media_s": 0.0,
                "size_bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("layout", ["webdataset", "emu3"])
@pytest.mark.parametrize("sample_id", ["../../x", "/tmp/x", "a/b", ""])
def test_ids_of_foreign_shards_are_no_paths(tmp_path: Path, layout: str, sample_id: str) -> None:
    name = "train-00000-of-00001.parquet"
    folder = foreign_shards(tmp_path / "shards", shard=name, sample_id=sample_id)
    with pytest.raises(StorageError, match="is no id"):
        export(layout, str(folder), str(tmp_path / "to"))


@pytest.mark.parametrize("name", ["../secret.parquet", "/etc/passwd", "a/b.parquet"])
def test_a_foreign_manifest_names_files_beside_it_alone(tmp_path: Path, name: str) -> None:
    folder = foreign_shards(tmp_path / "shards", shard=name, sample_id="x")
    with pytest.raises(DamagedFileError, match=r"shards\.0\.name"):
        read_manifest(open_storage(str(folder)), "")


def test_a_link_of_the_input_is_followed_as_its_owner_made_it(tmp_path: Path) -> None:
    """The page says so: who can write into an input decides what it holds."""
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "elsewhere.jpg", 5, size=(800, 800))
    (tmp_path / "in/a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    bench = bench_of(tmp_path)
    bench.run()
    assert bench.outcomes() == {"a.jpg": "kept"}
