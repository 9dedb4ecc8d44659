"""Folders: which files are sources, what comes with them, what is counted and what is refused."""

from __future__ import annotations

import contextlib
import io
import os
import random
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.errors import ConfigError, ProbeError
from curation.ingest import sources
from curation.ingest.containers.reader import Container, Inventory
from curation.ingest.locator import Locator, locator_of
from curation.ingest.metadata import MAX_SIDECAR_BYTES
from curation.ingest.sources import open_source
from datasets_media import List
from mutated import damage


@pytest.mark.parametrize(
    "place",
    [
        Locator("", "in/a#b.jpg"),
        Locator("tar", "in/a.tar", "x/0001.jpg"),
        Locator("tar", "/data/100%/no#1.tar", "a#b%20.jpg"),
        Locator("parquet", "in/a.parquet", "17/image"),
        Locator("tar", "in/a.tar"),
    ],
)
def test_a_place_survives_being_a_uri(place: Locator) -> None:
    assert locator_of(place.uri) == place


def test_sidecars_are_carried_and_not_counted_as_other_files(listed: List, folder: Path) -> None:
    for name in ("a.jpg", "b.png", "sub/c.webp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "a.txt").write_text("\ufeffa red house\n", encoding="utf-8")
    (folder / "a.json").write_text(
        '{"caption": "other", "similarity": 0.31, "nested": {"a": 1}, "none": null}'
    )
    (folder / "sub/c.json").write_text('{"NSFW": "UNLIKELY", "w": 20, "ok": true, "bad": NaN}')
    (folder / "readme.txt").write_text("about all of them")
    found = listed()
    metadata = {source.uri.removeprefix(f"{folder}/"): source.metadata for source in found.sources}
    assert metadata == {
        "a.jpg": {"caption": "a red house", "similarity": 0.31},
        "b.png": {},
        "sub/c.webp": {"NSFW": "UNLIKELY", "w": 20, "ok": True},
    }
    assert found.num_ignored == 1


@pytest.mark.parametrize("text", ["{broken", "[1, 2]", '"text"', "[" * 100_000])
def test_a_sidecar_that_can_not_be_used_says_so(listed: List, folder: Path, text: str) -> None:
    (folder / "a.jpg").write_bytes(b"x")
    (folder / "a.json").write_text(text)
    (source,) = listed().sources
    assert list(source.metadata) == ["carried_error"]


def test_large_files_are_no_sidecars(listed: List, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"x")
    (folder / "a.txt").write_bytes(b"t" * (MAX_SIDECAR_BYTES + 1))
    found = listed()
    assert (found.sources[0].metadata, found.num_ignored) == ({}, 1)


def test_the_output_of_a_run_is_no_input(listed: List, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"x")
    inside = ("run.json", "sources/unit-000000.parquet", "shards/s/train-00000.parquet", "report/a.png")
    for name in inside:
        (folder / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "out" / name).write_bytes(b"x")
    found = listed()
    assert [source.uri for source in found.sources] == [f"{folder}/a.jpg"]
    assert found.num_ignored == len(inside)
    with pytest.raises(ConfigError, match="is the output of a run"):
        listed(folder / "out")


def test_a_folder_that_only_looks_a_little_like_an_output_is_read(listed: List, folder: Path) -> None:
    (folder / "run.json").write_text("{}")
    (folder / "sources").mkdir()
    (folder / "sources/a.jpg").write_bytes(b"x")
    assert len(listed().sources) == 1


def test_overlapping_inputs_list_a_file_once_per_spelling(listed: List, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"x")
    assert len(listed(folder, folder).sources) == 1


@pytest.mark.parametrize(
    ("names", "said"), [([], "no such folder"), (["a.md", "b.csv"], "none of its 2 files")]
)
def test_an_input_without_media_is_refused(listed: List, folder: Path, names: list[str], said: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=said):
        listed()


def test_a_container_that_did_not_change_is_listed_once(
    listed: List, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed ones and lists of files too; another etag lists a container again."""
    (folder / "a.jpg").write_bytes(b"x")
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "a.jpg", "b.jpg")
    (folder / "broken.tar").write_bytes(b"x")
    pq.write_table(pa.table({"image": [b"x"], "TEXT": ["red"]}), folder / "a.parquet")
    pq.write_table(pa.table({"file_name": ["a.jpg"]}), folder / "names.parquet")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.jpg"}')
    seen: list[str] = []
    for reader in sources._CONTAINERS:
        monkeypatch.setattr(reader, "list", partial(noting, seen, reader.list))
    first = listed()
    assert sorted(seen) == ["a.parquet", "a.tar", "broken.tar", "metadata.jsonl", "names.parquet"]
    seen.clear()
    assert listed() == first
    assert seen == []
    os.utime(folder / "a.tar", ns=(1, 1))
    assert [source.etag for source in listed().sources] != [source.etag for source in first.sources]
    assert seen == ["a.tar"]


def noting(seen: list[str], read: Any, container: Container, on_progress: Any) -> Inventory:
    seen.append(container.item.key)
    return cast(Inventory, read(container, on_progress))


def test_a_damaged_index_is_made_anew(listed: List, folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"]}), folder / "a.parquet")
    first = listed()
    (kept,) = (tmp_path / "out/listing").iterdir()
    kept.write_bytes(b"damaged")
    assert listed() == first


def test_damaged_containers_never_stop_the_listing(listed: List, folder: Path, photos: list[bytes]) -> None:
    """Whatever happens to one: sources that open or fail as samples, or one that says why there are none."""
    draw = random.Random(0)
    (folder / "a.jpg").write_bytes(b"x")
    files = {"a.tar": tar_of(photos), "a.parquet": parquet_of(photos)}
    counts: Counter[str] = Counter()
    for count in range(200):
        for name, data in files.items():
            (folder / name).write_bytes(damage(draw, data))
            os.utime(folder / name, ns=(count, count))
        for source in listed().sources:
            counts[source.kind] += 1
            if source.kind == "image":
                with contextlib.suppress(ProbeError), open_source(source) as path:
                    counts["opened"] += path.stat().st_size >= 0
    assert min(counts["container"], counts["opened"]) > 100


def tar_of(photos: list[bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, data in enumerate(photos):
            for name, content in ((f"{number}.jpg", data), (f"{number}.json", b'{"a": 1}')):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    return file.getvalue()


def parquet_of(photos: list[bytes]) -> bytes:
    file = io.BytesIO()
    rows = [{"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(photos * 4)]
    pq.write_table(pa.table({"image": rows, "TEXT": ["red"] * len(rows)}), file, row_group_size=5)
    return file.getvalue()


def test_a_name_that_is_not_utf8_is_a_source_that_fails(listed: List, folder: Path) -> None:
    with open(os.fsencode(folder) + b"/\xff.jpg", "wb") as file:  # noqa: PTH123  a Path can't be bytes
        file.write(b"x")
    (source,) = listed().sources
    assert source.uri == f"{folder}/\\xff.jpg"
    with pytest.raises(ProbeError, match="its name is not UTF-8"), open_source(source):
        pass


def test_a_container_whose_name_is_not_utf8_is_read(
    listed: List, folder: Path, photos: list[bytes], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, name in enumerate(("0.jpg", "b\udcff.jpg")):
            archive.add(tmp_path / f"{number}.jpg", name)
    pq.write_table(pa.table({"image": photos[:2]}), tmp_path / "a.parquet")
    for name in ("a.tar", "a.parquet"):
        (tmp_path / name).rename(folder / f"\udcff%#{name}")
    sources = listed().sources
    assert [source.uri.rpartition("/")[2] for source in sources] == [
        "%FF%25%23a.parquet#0",
        "%FF%25%23a.parquet#1",
        "%FF%25%23a.tar#0.jpg",
        "%FF%25%23a.tar#b\\xff.jpg",
    ]
    for source, photo in zip(sources, photos[:2] * 2, strict=True):
        with open_source(source) as path:
            assert path.read_bytes() == photo
