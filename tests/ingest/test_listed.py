"""The listing as a table: the same sources as one by one, and nothing read before somebody works on it."""

from __future__ import annotations

import json
import os
import pickle
import posixpath
import random
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.ingest.containers.named import find_files
from curation.ingest.containers.reader import EntryColumns, Inventory
from curation.ingest.listing import list_inputs
from curation.ingest.locator import locator_of, position_of
from curation.ingest.metadata import from_sidecar, from_sidecars, merged
from curation.ledger.absent import num_bad_metadata
from curation.records import MetadataValue, Source
from curation.storage.local import LocalStorage
from datasets_media import Bench, List, config_data, write_photo
from one_by_one import scan_verdicts

FOLDERS = ("", "a/", "a-b/", "a/b/", "é/")
STEMS = ("x", "x.y", "A", "é", "z z")
TEXTS: tuple[MetadataValue, ...] = ("red", "blue", 5, ["red", "green"], ["red", "red"])


def filled(folder: Path, seed: int) -> None:
    """Files, sidecars and lists of files at random: names that clash, sort oddly, or say nothing."""
    draw = random.Random(seed)
    names = [f"{place}{stem}{end}" for place in FOLDERS for stem in STEMS for end in (".jpg", ".PNG", ".bin")]
    chosen = draw.sample(names, 30)
    for name in chosen:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
        stem = posixpath.splitext(name)[0]
        for suffix in draw.sample([".txt", ".TXT", ".json", ".Json"], draw.choice([0, 0, 1, 3])):
            said = {"caption": draw.choice(TEXTS), "score": draw.random()}
            text = json.dumps(said) if suffix.lower() == ".json" else str(draw.choice(TEXTS))
            (folder / f"{stem}{suffix}").write_text(text)
    for place in draw.sample(FOLDERS, 3):
        lines = [{"file_name": "first.jpg", "n": 0}]
        for name in draw.choices([*chosen, "nothing.jpg"], k=20):
            path = posixpath.relpath(name, place or ".") if draw.random() < 0.5 else name
            lines.append({"file_name": path, draw.choice(["caption", "score"]): draw.choice(TEXTS)})
        (folder / place).mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / place / draw.choice(["metadata.jsonl", "zz.ndjson"])).write_text(text)


def one_by_one(folder: Path) -> dict[str, Mapping[str, MetadataValue]]:
    """URI -> metadata, file after file: of a file its sidecars, of a line those and what it says."""
    keys = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found: dict[str, Mapping[str, MetadataValue]] = {}

    def add(uri: str, metadata: Mapping[str, MetadataValue]) -> None:
        found[uri] = merged(found[uri], metadata) if uri in found else metadata

    for key in keys:
        if key.lower().endswith((".jpg", ".png")):
            add(f"{folder}/{key}", beside(folder, keys, key))
        elif key.endswith(("jsonl", "ndjson")):
            for number, line in enumerate((folder / key).read_text().splitlines(), start=1):
                values = json.loads(line)
                path = values.pop("file_name")
                places = [posixpath.normpath(posixpath.join(posixpath.dirname(key), path)), path]
                target = next((place for place in places if posixpath.normpath(place) in keys), None)
                if target is None:
                    add(f"lines://{folder}/{key}#{number}", {"file_name": path, **values})
                else:
                    target = posixpath.normpath(target)
                    add(f"{folder}/{target}", merged(beside(folder, keys, target), values))
    return found


def beside(folder: Path, keys: list[str], key: str) -> Mapping[str, MetadataValue]:
    files = sidecars(keys, key)
    return from_sidecars(
        {name: from_sidecar(name, (folder / other).read_bytes()) for name, other in files.items()}
    )


def sidecars(keys: list[str], key: str) -> dict[str, str]:
    """Suffix in lower case -> key; of two the one in lower case, which comes last."""
    splits = [(*posixpath.splitext(other), other) for other in keys]
    stem = posixpath.splitext(key)[0]
    return {
        suffix.lower(): other
        for beside, suffix, other in splits
        if beside == stem and suffix.lower() in (".txt", ".json")
    }


def left_over(folder: Path, uris: Iterable[str]) -> set[str]:
    """Keys of what is no source, no list, and lies beside no medium."""
    keys = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    media = [key for key in keys if key.lower().endswith((".jpg", ".png"))]
    used = {other for key in media for other in sidecars(keys, key).values()}
    named = {uri.removeprefix(f"{folder}/") for uri in uris}
    return {key for key in keys if not key.endswith(("jsonl", "ndjson"))} - used - named


@pytest.mark.parametrize("seed", range(20))
def test_the_table_says_what_going_through_the_files_one_by_one_says(
    listed: List, folder: Path, seed: int
) -> None:
    filled(folder, seed)
    listing = listed()
    sources = list(listing.sources)
    expected = one_by_one(folder)
    assert listing.num_ignored == len(left_over(folder, expected))
    assert {source.uri: dict(source.metadata) for source in sources} == expected
    assert [source.uri for source in sources] == [source.uri for source in sorted(sources, key=place)]
    assert [source.ok for source in sources] == [not source.uri.startswith("lines:") for source in sources]


def test_inputs_and_what_lies_in_them_are_in_order_of_place(
    listed: List, folder: Path, tmp_path: Path
) -> None:
    """Wherever the configuration names them; in a tar by where a member begins, that of a hard link too."""
    for root in ("in", "before"):
        (tmp_path / root).mkdir(exist_ok=True)
        for name in ("b.jpg", "a.jpg"):
            (tmp_path / root / name).write_bytes(b"x")
        with tarfile.open(tmp_path / root / "t.tar", "w") as archive:
            for name in ("b.jpg", "a.jpg"):
                archive.add(tmp_path / root / name, name)
            link = tarfile.TarInfo("c.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, "b.jpg"
            archive.addfile(link)
        (tmp_path / root / "cut.tar").write_bytes((tmp_path / root / "t.tar").read_bytes()[:1600])
    sources = list(listed(folder, tmp_path / "before").sources)
    assert sources == sorted(sources, key=place)
    names = ["a.jpg", "b.jpg", "cut.tar", "cut.tar#b.jpg", "t.tar#b.jpg", "t.tar#c.jpg", "t.tar#a.jpg"]
    assert sorted(source.uri.rpartition("/")[2] for source in sources) == sorted(names * 2)
    tar = [source.uri.rpartition("#")[2] for source in sources if "before/t.tar" in source.uri]
    assert tar == ["b.jpg", "c.jpg", "a.jpg"]


def place(source: Source) -> tuple[str, int]:
    """By file, then by the position in it."""
    locator = locator_of(source.uri)
    file = source.uri.partition("#")[0] if locator.scheme else source.uri
    return file, position_of(source) if locator.part else -1


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sidecars that are read."""
    names: list[str] = []
    really = LocalStorage.read

    def noting(storage: LocalStorage, key: str) -> bytes | None:
        if key.lower().endswith((".txt", ".json")) and not key.startswith("retracted/"):
            names.append(key)
        return really(storage, key)

    monkeypatch.setattr(LocalStorage, "read", noting)
    return names


def test_sidecars_are_read_by_who_takes_a_source_and_not_by_who_lists(
    listed: List, folder: Path, read: list[str]
) -> None:
    for name in "abc":
        (folder / f"{name}.jpg").write_bytes(b"x")
        (folder / f"{name}.txt").write_text(name)
    sources = listed().sources
    assert (len(sources), read) == (3, [])
    assert sources[1].metadata == {"caption": "b"}
    assert read == ["b.txt"]


def test_a_slice_travels_without_the_rest(listed: List, folder: Path) -> None:
    for number in range(2000):
        (folder / f"{number:04}.jpg").write_bytes(b"x")
    sources = listed().sources
    some = sources[100:104]
    data = pickle.dumps(some)
    assert len(data) < 4000  # four rows of less than 200 bytes, and the schema
    arrived = pickle.loads(data)
    assert arrived == some
    assert [source.uri for source in arrived] == [f"{folder}/{number:04}.jpg" for number in range(100, 104)]
    assert list(some[1:]) == list(sources)[101:104]
    assert sources[-1] == list(sources)[-1]
    with pytest.raises(IndexError):
        sources[2000]


def test_names_that_are_printed_alike_are_one_source(listed: List, folder: Path) -> None:
    (folder / r"\xff.jpg").write_bytes(b"x")
    (folder / r"\xff.txt").write_text("a caption")
    with open(os.fsencode(folder) + b"/\xff.jpg", "wb") as file:  # noqa: PTH123  a Path can't be bytes
        file.write(b"xx")
    (source,) = listed().sources
    assert (source.uri, source.size_bytes) == (rf"{folder}/\xff.jpg", 2)
    assert source.metadata == {"caption": "a caption"}


PARTS = ("..", ".", "", "a", "b", "c.jpg", "in", "x..", ".y")


def test_paths_lead_where_python_says_that_they_lead() -> None:
    """posixpath.normpath, one by one, for 5,000 paths of such parts."""
    draw = random.Random(0)
    names = sorted({"/".join(draw.choices(("a", "b", "in", "c.jpg", "x..", ".y"), k=k)) for k in (1, 2, 3)})
    names = sorted({"/".join(draw.choices(PARTS[3:], k=draw.randint(1, 3))) for _ in range(200)} | {*names})
    lists = ["m.jsonl", "a/m.jsonl", "a/b/m.jsonl"]
    for root in ("in", "/data/in", "../in", ""):
        paths = ["/".join(draw.choices(PARTS, k=draw.randint(1, 5))) for _ in range(1250)]
        paths = [draw.choice(["", "", f"{root}/"]) + path for path in paths]
        numbers = [draw.randrange(3) for _ in paths]
        found = find_files(root, pa.array(names), lists, pa.array(numbers), pa.array(paths)).to_pylist()
        expected = [
            list(targets(root, names, lists[n], path)) for n, path in zip(numbers, paths, strict=True)
        ]
        assert found == [rows[0] if rows else None for rows in expected]
        assert 100 < sum(map(bool, expected)) < 1200


def targets(root: str, names: list[str], name: str, path: str) -> Iterator[int]:
    """Beside the list, else below the input, also if the path is absolute."""
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
    base = posixpath.abspath(root) if path.startswith("/") else root
    below = posixpath.normpath(path.removeprefix(f"{base}/"))
    yield from (names.index(key) for key in (beside, below) if key in names)


def test_an_empty_inventory_has_the_columns_of_a_full_one() -> None:
    assert Inventory().entries.schema == EntryColumns().table().schema


# What changes beside a file


@pytest.fixture
def bench(folder: Path, vocabulary: Path, tmp_path: Path) -> Bench:
    """Three photos with captions beside them, and two without."""
    for number, name in enumerate("abcde"):
        write_photo(folder / f"{name}.jpg", number)
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"caption of {name}")
    data = config_data(folder, tmp_path / "out", vocabulary)
    for key in ("videos", "captions", "tokens", "shards"):
        del data[key]
    rule = {"filters": ["resolution"], "resolution": {"min_width": 8, "min_height": 8}}
    return Bench(data | {"images": rule})


def carried(bench: Bench) -> dict[str, Any]:
    return {
        judged.source.uri.rpartition("/")[2]: judged.source.metadata
        for _, unit in scan_verdicts(bench.ledger, bench.pipeline)
        for judged in unit
    }


def renewed(bench: Bench) -> list[str]:
    return [source.uri.rpartition("/")[2] for task in bench.tasks("probe") for source in task.renewed]


def test_only_what_changed_beside_a_file_is_read_again(bench: Bench, folder: Path, read: list[str]) -> None:
    bench.run()
    read.clear()
    assert bench.tasks("probe") == []
    (folder / "a.txt").write_text("another caption")
    (folder / "b.txt").unlink()
    (folder / "d.TXT").write_text("new")
    terms, number = '{"file_name": "c.jpg", "license": "CC0"}\n', '{"file_name": "e.jpg", "n": 1}\n'
    (folder / "metadata.jsonl").write_text(terms + number)
    assert read == []
    metrics = bench.run()
    assert metrics.rows.total() == 0
    assert sorted(read) == ["a.txt", "c.txt", "d.TXT"]
    assert carried(bench) == {
        "a.jpg": {"caption": "another caption"},
        "b.jpg": {},
        "c.jpg": {"caption": "caption of c", "license": "CC0"},
        "d.jpg": {"caption": "new"},
        "e.jpg": {"n": 1},
    }
    assert bench.tasks("probe") == []
    (folder / "metadata.jsonl").write_text('{"file_name": "d.jpg"}\n' + terms + number)
    assert renewed(bench) == ["d.jpg"]
    (folder / "metadata.jsonl").write_text(terms + number.replace("1", "2"))
    assert renewed(bench) == ["e.jpg"]
    (folder / "metadata.jsonl").unlink()
    assert renewed(bench) == ["c.jpg", "e.jpg"]


def test_a_ledger_without_etags_of_sidecars_is_taken_over(bench: Bench) -> None:
    """As older versions wrote it: what lies beside the files is read once more, and nothing is measured."""
    bench.run()
    before = carried(bench)
    for unit in bench.ledger.units():
        strip_etags(bench, unit)
    assert renewed(bench) == ["a.jpg", "b.jpg", "c.jpg"]
    assert bench.run().rows.total() == 0
    assert carried(bench) == before
    assert bench.tasks("probe") == []


def strip_etags(bench: Bench, unit: int) -> None:
    """Write a unit without the column."""
    path = Path(bench.ledger.storage.root) / f"sources/unit-{unit:06d}.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["carried_etag"]).replace_schema_metadata(None), path)


def test_metadata_that_can_not_be_kept_is_counted_of_what_is_there(bench: Bench, folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"caf\xe9")
    (folder / "b.json").write_text("no json")
    (folder / "c.json").write_text(json.dumps({"caption": 'he said "carried_error": so'}))
    assert num_bad_metadata(bench.ledger) == 0
    bench.run()
    assert num_bad_metadata(bench.ledger) == 2
    (folder / "a.jpg").unlink()
    bench.run()
    assert num_bad_metadata(bench.ledger) == 1
    assert list_inputs(bench.config).leftovers.num_bad_metadata == 0  # who lists does not know
