"""What every storage does: the same tests over a folder, a bucket of a real S3 server, stand-ins of others.

Google's and Azure's own services can't be reached by tests. Azure's emulator (Azurite) passed them by hand.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import provider_stand_ins
from buckets import S3Server, contents, upload
from curation.errors import StorageError, WriteConflict
from curation.storage import Storage, open_storage
from curation.storage.base import ABSENT

ODD = (
    "a b.jpg",
    "a#b.jpg",
    "a?b.jpg",
    "a%b.jpg",
    "a%20b.jpg",
    "ü.jpg",
    "日本.jpg",
    "a+b&c=d.jpg",
    "~{[*'\"]}.jpg",
    "😀.jpg",
)


@pytest.fixture(params=["folder", "bucket", "prefix", "google", "azure"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "root"))
    if request.param in ("google", "azure"):
        url: str = request.getfixturevalue(request.param)
        return open_storage(f"{url}/some/prefix")
    url = request.getfixturevalue("bucket")
    return open_storage(url if request.param == "bucket" else f"{url}/some/prefix #1%")


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from _served(monkeypatch, "gs", *provider_stand_ins.google())


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from _served(monkeypatch, "az", *provider_stand_ins.azure())


def _served(
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    server: provider_stand_ins.ProviderStandIn,
    variables: Mapping[str, str],
) -> Iterator[str]:
    for name, value in {**variables, "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    yield f"{scheme}://{provider_stand_ins.BUCKET}"
    server.stop()


def test_reads_what_was_written(storage: Storage) -> None:
    storage.write("a/b.bin", b"one")
    storage.write("a/b.bin", b"three")
    assert storage.read("a/b.bin") == b"three"
    assert storage.read("a/c.bin") is None
    found = storage.find("a/b.bin")
    assert found is not None
    assert (found.key, found.size_bytes) == ("a/b.bin", 5)
    assert storage.find("a") is None
    assert storage.find("a/c.bin") is None


def test_lists_by_folder_sorted_by_key(storage: Storage) -> None:
    for key in ("ord/a/1", "ord/a-b", "ord/a/0", "order", "ord2/x", "top"):
        storage.write(key, b"x")
    assert [item.key for item in storage.list("ord")] == ["ord/a-b", "ord/a/0", "ord/a/1"]
    assert [item.key for item in storage.list("")] == [
        "ord/a-b",
        "ord/a/0",
        "ord/a/1",
        "ord2/x",
        "order",
        "top",
    ]
    assert storage.list("nothing") == []


def test_listing_passes_over_what_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a run merges unit files while somebody looks at its status."""
    storage = open_storage(str(tmp_path / "root"))
    for key in ("a/1", "a/2", "b/3"):
        storage.write(key, b"x")

    scan = os.scandir

    @contextmanager
    def scan_then_remove(folder: str) -> Iterator[list[os.DirEntry[str]]]:
        with scan(folder) as entries:
            found = list(entries)
        for entry in found:
            if entry.name == "1":
                Path(entry.path).unlink()
        yield found

    monkeypatch.setattr(os, "scandir", scan_then_remove)
    assert [item.key for item in storage.list("")] == ["a/2", "b/3"]


def test_listing_and_finding_agree(storage: Storage) -> None:
    storage.write("a/b.bin", b"12345")
    (item,) = storage.list("a")
    assert item == storage.find("a/b.bin")
    assert item.size_bytes == 5
    storage.write("a/b.bin", b"54321")
    assert storage.list("a")[0].etag != item.etag


@pytest.mark.parametrize("name", ODD)
def test_odd_names(storage: Storage, name: str) -> None:
    storage.write(f"odd/{name}", name.encode())
    assert [item.key for item in storage.list("odd")] == [f"odd/{name}"]
    assert storage.read(f"odd/{name}") == name.encode()
    with storage.open(f"odd/{name}") as file:
        assert file.read() == name.encode()
    storage.delete(f"odd/{name}")
    assert storage.list("odd") == []


def test_only_the_first_creates(storage: Storage) -> None:
    storage.write("a", b"first", expect=ABSENT)
    with pytest.raises(WriteConflict):
        storage.write("a", b"second", expect=ABSENT)
    assert storage.read("a") == b"first"


def test_only_the_version_that_was_read_is_replaced(storage: Storage) -> None:
    assert storage.read_versioned("a") == (None, ABSENT)
    storage.write("a", b"first")
    data, version = storage.read_versioned("a")
    assert data == b"first"
    storage.write("a", b"second", expect=version)
    with pytest.raises(WriteConflict):
        storage.write("a", b"third", expect=version)
    assert storage.read("a") == b"second"
    with pytest.raises(WriteConflict):
        storage.write("gone", b"x", expect=version)


def test_deletes_what_is_there_or_not(storage: Storage) -> None:
    storage.write("a", b"x")
    storage.delete("a")
    storage.delete("a")
    assert storage.list("") == []


def test_opens_as_a_file(storage: Storage) -> None:
    data = os.urandom(3_000_000)
    storage.write("large.bin", data)
    with storage.open("large.bin") as file:
        assert file.read(10) == data[:10]
        file.seek(-7, 2)
        assert file.read() == data[-7:]
        file.seek(1_234_567)
        assert file.read(600_000) == data[1_234_567:1_834_567]
        assert file.read(0) == b""
        file.seek(2_999_999)
        assert file.read(10) == data[-1:]
        assert file.read(10) == b""
        file.seek(0)
        assert file.read() == data
    with pytest.raises(StorageError, match="nothing"), storage.open("nothing"):
        pass


def test_parquet_is_read_by_column(storage: Storage) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": range(100_000), "b": [os.urandom(20) for _ in range(100_000)]}), sink)
    storage.write("t.parquet", sink.getvalue().to_pybytes())
    with storage.open("t.parquet") as file:
        assert pq.ParquetFile(file, pre_buffer=False).read(["a"])["a"].to_pylist() == list(range(100_000))


def test_empty_objects(storage: Storage) -> None:
    storage.write("empty", b"")
    assert storage.read("empty") == b""
    with storage.open("empty") as file:
        assert file.read() == b""
    assert storage.list("")[0].size_bytes == 0


def test_as_a_file_of_this_machine(storage: Storage) -> None:
    storage.write("a/b.bin", b"data")
    with storage.local_path("a/b.bin") as path:
        assert path.read_bytes() == b"data"


def test_travels_to_workers(storage: Storage) -> None:
    storage.write("a", b"x")
    data = pickle.dumps(storage)
    assert b"secret" not in data
    assert pickle.loads(data).read("a") == b"x"


def test_large_objects_are_written_in_parts(bucket: str, s3_server: S3Server) -> None:
    data = os.urandom(40_000_000)
    open_storage(bucket).write("large", data)
    assert contents(s3_server, bucket) == {"large": data}


def test_keys_of_other_clients(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / name).write_text(name)
    upload(s3_server, tmp_path, f"{bucket}/in")
    storage = open_storage(f"{bucket}/in")
    assert {item.key for item in storage.list("")} == set(ODD)
    assert all(storage.read(name) == name.encode() for name in ODD)


def test_marks_of_folders_are_no_objects(bucket: str, s3_server: S3Server) -> None:
    for name in ("out", "out/sub"):
        s3_server.files().create_dir(f"{bucket.removeprefix('s3://')}/{name}")
    assert open_storage(f"{bucket}/out/sub").list("") == []
    open_storage(bucket).write("out/sub/a", b"x")
    for root, key in (("", "out/sub/a"), ("/out", "sub/a"), ("/out/sub", "a")):
        assert [item.key for item in open_storage(f"{bucket}{root}").list("")] == [key]
