"""Inputs in buckets, listed and in the ledger: as on disk, with the URLs of objects as names."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from buckets import S3Server, upload
from curation.errors import ConfigError
from curation.ingest.inputs import find_inputs, input_roots
from curation.ingest.listing import Listing
from curation.ledger.absent import absent_sources
from curation.ledger.unused import unused_folders
from curation.report.tables.explain import explain
from curation.report.tables.table import flat_table
from curation.storage import open_storage
from datasets_media import Bench, List, config_data, write_photo

CASES = ("jsonl", "multicap", "list_run", "pathonly_run", "sidecar_run")


def told(listing: Listing, root: str) -> tuple[list[Any], list[str], Mapping[str, int]]:
    """What a listing says, without what depends on where the input lies, as the order of places does."""

    def below(text: str | None) -> str | None:
        return None if text is None else text.replace(root, "IN")

    sources: list[Any] = [
        (below(one.uri), one.kind, one.size_bytes, dict(one.metadata), one.error_type, below(one.error))
        for one in listing.sources
    ]
    sources.sort(key=repr)
    lines = [line.replace(root, "IN") for line in listing.leftovers.lines()]
    return sources, lines, listing.leftovers.metadata


@pytest.fixture
def full(folder: Path, photos: list[bytes]) -> Path:
    """A folder with all that may lie in one."""
    for name in ("a b.jpg", "100%.jpg", "x#y?.jpg", "sub/\u00e9.jpg", "sub/e\u0301.jpg", "list/pic.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(photos[0])
    (folder / "a b.txt").write_text("a caption")
    (folder / "sub/\u00e9.JSON").write_text('{"caption": "other", "score": 0.5}')
    (folder / "readme.txt").write_text("of no picture")
    with tarfile.open(folder / "sub/no #1.tar", "w") as archive:
        for name, data in (("0.jpg", photos[1]), ("0.txt", b"of a member"), ("notes.md", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (folder / "broken.tar").write_bytes(photos[0])
    rows = [{"bytes": photos[2], "path": "r.jpg"}, {"bytes": None, "path": "list/pic.jpg"}]
    pq.write_table(pa.table({"image": rows, "caption": ["a row", "beside"]}), folder / "a.parquet")
    lines = [{"file_name": "pic.jpg", "caption": "of a list"}, {"file_name": "absent.jpg", "caption": "?"}]
    (folder / "list/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("out/run.json", "out/sources/unit-000000.parquet", "out/b.jpg", ".git/c.jpg", "clip.jpg/d"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_bucket_is_listed_as_the_folder_is(
    listed: List, full: Path, bucket: str, s3_server: S3Server
) -> None:
    upload(s3_server, full, f"{bucket}/some/in")
    local, there = listed(full), listed(f"{bucket}/some/in/")
    assert told(there, f"{bucket}/some/in") == told(local, str(full))
    assert len(there.sources) == 10
    uris = [source.uri for source in there.sources]
    assert f"{bucket}/some/in/x#y?.jpg" in uris
    assert f"tar://{bucket}/some/in/sub/no %231.tar#0.jpg" in uris
    assert there.leftovers.not_files == {f"{bucket}/some/in/clip.jpg": "a folder, and read as one"}


@pytest.mark.parametrize("case", CASES)
def test_the_shared_cases_are_listed_alike(
    listed: List, shared_data: Path, bucket: str, s3_server: S3Server, case: str
) -> None:
    folder = shared_data / "cases" / case / "in"
    upload(s3_server, folder, f"{bucket}/{case}/in")
    there = listed(f"{bucket}/{case}/in")
    assert told(there, f"{bucket}/{case}/in") == told(listed(folder), str(folder))
    assert len(there.sources)


@pytest.mark.parametrize("spelled", ["{}/in/", "{}//in", "{}/./in//"])
def test_one_place_has_one_name(
    listed: List, folder: Path, photos: list[bytes], bucket: str, s3_server: S3Server, spelled: str
) -> None:
    (folder / "a.jpg").write_bytes(photos[0])
    upload(s3_server, folder, f"{bucket}/in")
    found = listed(spelled.format(bucket), f"{bucket}/in")
    assert [source.uri for source in found.sources] == [f"{bucket}/in/a.jpg"]
    assert found.leftovers.lines() == [f"read once: {bucket}/in, which is named twice"]


def test_folders_and_buckets_in_one_run(
    listed: List, folder: Path, photos: list[bytes], bucket: str, s3_server: S3Server
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/a.jpg").write_bytes(photos[0])
    upload(s3_server, folder, bucket)
    found = listed(f"{bucket}/sub", folder, bucket)
    assert {source.uri for source in found.sources} == {f"{folder}/sub/a.jpg", f"{bucket}/sub/a.jpg"}
    assert found.leftovers.repeated == {f"{bucket}/sub": f"{bucket}/sub"}


def test_a_list_may_name_objects_by_their_urls(
    listed: List, folder: Path, photos: list[bytes], bucket: str, s3_server: S3Server
) -> None:
    (folder / "x").mkdir()
    (folder / "x/a.jpg").write_bytes(photos[0])
    names = (f"{bucket}/in/x/a.jpg", f"{bucket}/elsewhere.jpg")
    lines = [json.dumps({"file_name": name, "caption": "c"}) for name in names]
    (folder / "list.jsonl").write_text("\n".join(lines))
    upload(s3_server, folder, f"{bucket}/in")
    by_uri = {source.uri: source for source in listed(f"{bucket}/in").sources}
    assert by_uri[f"{bucket}/in/x/a.jpg"].metadata == {"caption": "c"}
    assert len(by_uri) == 2
    (failed,) = (source for source in by_uri.values() if not source.ok)
    assert failed.error == f"it names '{bucket}/elsewhere.jpg', which is no file of the input"


@pytest.mark.parametrize("below", ["/absent", "", "/notes"])
def test_an_input_without_media_stops_the_run(
    listed: List, folder: Path, bucket: str, s3_server: S3Server, below: str
) -> None:
    if below:
        (folder / "readme.md").write_text("x")
        upload(s3_server, folder, f"{bucket}/notes")
    said = "none of its 1 files" if below == "/notes" else "there is no such folder, or nothing is in it"
    with pytest.raises(ConfigError, match=rf"input {bucket}{below}: {said}"):
        listed(f"{bucket}{below}")


def test_an_output_in_a_bucket_is_no_input(
    listed: List, folder: Path, bucket: str, s3_server: S3Server
) -> None:
    for name in ("run.json", "sources/unit-000000.parquet", "a.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    upload(s3_server, folder, f"{bucket}/out")
    with pytest.raises(ConfigError, match="that is the output of a run"):
        listed(f"{bucket}/out")


@pytest.fixture
def bench(folder: Path, bucket: str, s3_server: S3Server, vocabulary: Path, tmp_path: Path) -> Bench:
    """Three photos in a bucket, measured by one filter; two more inputs of one photo each."""
    for name, seed in (("in/a.jpg", 0), ("in/b#?.jpg", 1), ("in/c.jpg", 2), ("more/d.jpg", 3)):
        (folder / name).parent.mkdir(exist_ok=True)
        write_photo(folder / name, seed)
    upload(s3_server, folder, bucket)
    data = config_data(folder, tmp_path / "out", vocabulary)
    data = {name: data[name] for name in ("name", "output", "run")}
    data["input"] = [f"{bucket}//in/", f"{bucket}/more"]
    data["images"] = {"filters": ["resolution"], "resolution": {"min_width": 64, "min_height": 64}}
    bench = Bench(data)
    bench.run()
    return bench


def versions(bench: Bench) -> dict[str, tuple[str, str, str | None]]:
    """URI -> id, etag and hash of the newest version."""
    return {
        source.uri: (source.source_id, source.etag, source.content_hash)
        for unit in bench.ledger.units()
        for source in bench.ledger.sources(unit)
    }


def test_another_etag_of_the_same_bytes_is_the_same_source(
    bench: Bench, bucket: str, s3_server: S3Server
) -> None:
    """A copy in parts has another ETag than the copy in one go that replaces it."""
    before = versions(bench)
    data = open_storage(bucket).read("in/a.jpg")
    assert data is not None
    with s3_server.files().open_output_stream(f"{bucket.removeprefix('s3://')}/in/a.jpg") as file:
        file.write(data)
    open_storage(bucket).write("in/c.jpg", data)
    first = open_storage(bucket).find("in/a.jpg")
    open_storage(bucket).write("in/a.jpg", data)
    second = open_storage(bucket).find("in/a.jpg")
    assert first is not None
    assert second is not None
    assert first.etag != second.etag
    assert len(bench.tasks("probe")) == 1
    bench.run()
    after = versions(bench)
    assert after[f"{bucket}/in/a.jpg"] == (
        before[f"{bucket}/in/a.jpg"][0],
        second.etag,
        before[f"{bucket}/in/a.jpg"][2],
    )
    # Other bytes under the same key are another version.
    assert after[f"{bucket}/in/c.jpg"][0] != before[f"{bucket}/in/c.jpg"][0]
    assert after[f"{bucket}/in/b#?.jpg"] == before[f"{bucket}/in/b#?.jpg"]
    assert bench.tasks("probe") == []
    absent = absent_sources(bench.ledger)
    assert (absent.replaced, absent.gone) == ({before[f"{bucket}/in/c.jpg"][0]}, {})


def test_gone_keys_are_gone_and_count_again_when_they_return(bench: Bench, bucket: str) -> None:
    storage = open_storage(bucket)
    data = storage.read("in/b#?.jpg")
    assert data is not None
    storage.delete("in/b#?.jpg")
    bench.run()
    assert list(absent_sources(bench.ledger).gone.values()) == [f"{bucket}/in/b#?.jpg"]
    storage.write("in/b#?.jpg", data)
    # Another client has put it there, so that it has another ETag, and is read once more.
    assert bench.run().rows == {"probe": 1}
    assert absent_sources(bench.ledger).gone == {}
    storage.delete("more/d.jpg")
    with pytest.raises(ConfigError, match=f"input {bucket}/more: there is no such folder"):
        find_inputs(bench.config)


def test_explain_and_table_know_urls(bench: Bench, bucket: str) -> None:
    said = io.StringIO()
    for wanted in (f"{bucket}/in/b#?.jpg", "b#?.jpg"):
        explain(Console(file=said, width=200), bench.ledger, bench.pipeline, wanted)
    assert said.getvalue().count(f"{bucket}/in/b#?.jpg  source") == 2
    table = flat_table(bench.ledger, bench.pipeline)
    names = ("in/a.jpg", "in/b#?.jpg", "in/c.jpg", "more/d.jpg")
    assert set(table["uri"].to_pylist()) == {f"{bucket}/{name}" for name in names}


def test_containers_are_listed_once_and_their_listings_are_in_use(
    bench: Bench, bucket: str, photos: list[bytes]
) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [{"bytes": photos[0], "path": "r.jpg"}]}), sink)
    open_storage(bucket).write("in/a.parquet", sink.getvalue().to_pybytes())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"number": [1]}), sink)
    open_storage(bucket).write("in/none.parquet", sink.getvalue().to_pybytes())
    assert len(bench.tasks("list")) == 2
    bench.run()
    assert bench.tasks("list") == []
    assert f"parquet://{bucket}/in/a.parquet#0" in versions(bench)
    assert [one.name for one in unused_folders(bench.ledger.storage, [bench.pipeline])] == []
    open_storage(bucket).delete("in/none.parquet")
    assert len(list(unused_folders(bench.ledger.storage, [bench.pipeline]))) == 1


def test_roots_are_spelled_as_their_sources(bench: Bench, bucket: str) -> None:
    assert input_roots(bench.config) == [f"{bucket}/in", f"{bucket}/more"]
