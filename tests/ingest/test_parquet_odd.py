"""Parquet as people write it, and as it comes damaged: bad cells, odd types, what is no picture, bombs."""

from __future__ import annotations

import datetime as dt
import decimal
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.errors import ProbeError
from curation.ingest.containers.parquet import columns, reader
from curation.ingest.sources import open_source
from curation.records import Source
from datasets_media import ROOT, List, environment

JPEG = b"\xff\xd8\xff\xe0"
MP4 = b"\0\0\0\x20ftypisom"


def content(source: Source) -> bytes:
    with open_source(source) as path:
        return path.read_bytes()


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def beside_pictures(folder: Path, **column: pa.Array) -> None:
    (length,) = {len(values) for values in column.values()}
    pictures = [JPEG + bytes([row]) for row in range(length)]
    captions = [f"caption {row}" for row in range(length)]
    write(folder / "a.parquet", {"image": pictures, "caption": captions, **column})


def bad_text(values: list[bytes], kind: pa.DataType) -> pa.Array:
    """Bytes under the name of text, as writers in other languages leave them."""
    return (
        pa.array(values, pa.binary()).view(pa.string()).cast(kind)
        if kind != pa.string()
        else (pa.array(values, pa.binary()).view(pa.string()))
    )


@pytest.mark.parametrize(
    ("values", "said", "problem"),
    [
        (bad_text([b"a\xff", b"ok"], pa.string()), [None, "ok"], "it is not UTF-8"),
        (pa.array([2**62, 0], pa.timestamp("us")), [None, "1970-01-01 00:00:00.000000"], "out of range"),
        (pa.array([2**31 - 1, 1], pa.date32()), [None, "1970-01-02"], "out of range"),
        (pa.array([-1, 1], pa.time64("ns")), [None, "00:00:00.000000001"], "out of range"),
        (pa.array(["x" * (2**20 + 1), "y"]), [None, "y"], "1048577 bytes are too many for one value"),
        (
            pa.DictionaryArray.from_arrays([0, 1], bad_text([b"a\xff", b"ok"], pa.string())),
            [None, "ok"],
            "it is not UTF-8",
        ),
    ],
    ids=["not UTF-8", "timestamp", "date", "time", "long", "dictionary"],
)
def test_a_bad_cell_is_one_bad_cell(
    listed: List, folder: Path, values: pa.Array, said: list[Any], problem: str
) -> None:
    beside_pictures(folder, when=values)
    sources = listed().sources
    assert [content(source) for source in sources] == [JPEG + b"\0", JPEG + b"\1"]
    assert [source.metadata["caption"] for source in sources] == ["caption 0", "caption 1"]
    assert [source.metadata.get("when") for source in sources] == said
    error = str(sources[0].metadata["carried_error"])
    assert error.startswith("when: ")
    assert problem in error
    assert "carried_error" not in sources[1].metadata


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([1700000000123456789], pa.timestamp("ns")), "2023-11-14 22:13:20.123456789"),
        (
            pa.array([253402300800000], pa.timestamp("ms")),
            "10000-01-01 00:00:00.000",
        ),  # beyond 9999
        (pa.array([0], pa.timestamp("ms", "UTC")), "1970-01-01 00:00:00.000Z"),
        (pa.array([0], pa.timestamp("ms", "+05:30")), "1970-01-01 05:30:00.000+0530"),
        (pa.array([0], pa.timestamp("ms", "Mars/Olympus")), "1970-01-01 00:00:00.000Z"),
        (pa.array([1500], pa.duration("ms")), "1500 ms"),
        (pa.array([decimal.Decimal("1.50")]), "1.50"),
        (pa.array([decimal.Decimal("1.5")], pa.decimal256(60, 2)), "1.50"),
        (pa.array([2**63], pa.uint64()), 2**63),
        (pa.array([0.5], pa.float16()), 0.5),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array([["a", None, "b"]]), ["a", "b"]),
        (pa.array([["a", "b"]], pa.large_list(pa.string())), ["a", "b"]),
        (pa.array([["a", "b"]], pa.list_(pa.string(), 2)), ["a", "b"]),
        (pa.array([dt.date(2022, 1, 2)]), "2022-01-02"),
        (pa.array([True]), True),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_types_that_can_be_carried(listed: List, folder: Path, values: pa.Array, said: Any) -> None:
    beside_pictures(folder, it=values)
    (source,) = listed().sources
    assert source.metadata == {"caption": "caption 0", "it": said}


def test_a_column_that_is_damaged_is_named_and_loses_no_picture(listed: List, folder: Path) -> None:
    rows = 40
    columns_of = {
        "image": [JPEG + bytes([row]) for row in range(rows)],
        "text": [os.urandom(50).hex() for _ in range(rows)],
        "n": list(range(rows)),
    }
    path = write(
        folder / "a.parquet", columns_of, compression="zstd", use_dictionary=False, row_group_size=20
    )
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(1).column(1)
    raw = bytearray(path.read_bytes())
    raw[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = (
        b"\xff" * chunk.total_compressed_size
    )
    path.write_bytes(raw)
    sources = listed().sources
    assert [content(source) for source in sources] == columns_of["image"]
    assert [source.metadata["n"] for source in sources] == columns_of["n"]
    assert ["carried_error" in source.metadata for source in sources] == [False] * 20 + [True] * 20
    assert str(sources[-1].metadata["carried_error"]).startswith("text: can't be read: ")


@pytest.mark.parametrize("name", ["badutf", "max", "ns"])
def test_the_shared_dates_lose_no_picture(listed: List, shared_data: Path, name: str) -> None:
    sources = listed(shared_data / "cases/parquet-dates" / name).sources
    assert [(source.kind, source.ok) for source in sources] == [("image", True)] * 2
    assert [source.metadata["caption"] for source in sources] == ["a", "b"]


def path_only(folder: Path, paths: list[str]) -> None:
    rows = [{"bytes": None, "path": path} for path in paths]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    captions = [f"caption of {path}" for path in paths]
    write(folder / "d.parquet", {"image": pa.array(rows, kind), "caption": captions})


def test_structs_with_a_path_only_stand_for_the_listed_files(listed: List, folder: Path) -> None:
    (folder / "img").mkdir()
    for name in "ab":
        (folder / f"img/{name}.jpg").write_bytes(JPEG)
    path_only(folder, ["img/a.jpg", f"{folder}/img/b.jpg"])
    found = {source.uri: source.metadata["caption"] for source in listed().sources}
    assert found == {
        f"{folder}/img/a.jpg": "caption of img/a.jpg",
        f"{folder}/img/b.jpg": f"caption of {folder}/img/b.jpg",
    }


@pytest.mark.parametrize("path", ["../outside.jpg", "/dev/zero", "/etc/passwd", "img/../../outside.jpg"])
def test_a_path_that_leaves_the_input_is_refused_by_name(listed: List, folder: Path, path: str) -> None:
    (folder.parent / "outside.jpg").write_bytes(b"secret")
    path_only(folder, [path])
    (source,) = listed().sources
    assert (source.ok, source.uri) == (False, f"parquet://{folder}/d.parquet#0")
    assert source.error == f"it names {path!r}, which is no file of the input"
    with pytest.raises(ProbeError, match="no file of the input"):
        content(source)


def test_some_embedded_and_some_by_path_each_count_once(listed: List, folder: Path) -> None:
    (folder / "b.jpg").write_bytes(JPEG + b"beside")
    rows = [{"bytes": JPEG + b"0", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}]
    write(folder / "d.parquet", {"image": rows, "caption": ["first", "second"]})
    sources = listed().sources
    assert {source.metadata["caption"]: content(source) for source in sources} == {
        "first": JPEG + b"0",
        "second": JPEG + b"beside",
    }
    assert len(sources) == 2


def test_the_shared_paths_count_once(listed: List, shared_data: Path) -> None:
    sources = listed(shared_data / "cases/pathonly_run/in").sources
    assert [source.metadata for source in sources] == [{"caption": "cap of a"}, {"caption": "cap of b"}]


@pytest.mark.parametrize("wrap", [True, False], ids=["structs", "bytes"])
def test_lists_of_pictures_are_a_source_each(listed: List, folder: Path, wrap: bool) -> None:
    data = [[JPEG + b"0", JPEG + b"1"], [], [JPEG + b"2"]]
    rows = [[{"bytes": one, "path": None} if wrap else one for one in row] for row in data]
    path = write(folder / "list.parquet", {"images": rows, "texts": ["x", "y", "z"]})
    found = listed()
    assert {
        source.uri.partition("#")[2]: (content(source), source.metadata["texts"]) for source in found.sources
    } == {
        "0/0": (JPEG + b"0", "x"),
        "0/1": (JPEG + b"1", "x"),
        "2/0": (JPEG + b"2", "z"),
    }
    assert found.sources[0].uri == f"parquet://{path}#0/0"
    assert found.num_ignored == 1


def test_lists_beside_other_media(listed: List, folder: Path) -> None:
    rows = [[{"bytes": JPEG + b"0"}, {"bytes": JPEG + b"1"}]]
    write(folder / "a.parquet", {"images": rows, "video": [{"bytes": MP4}]})
    found = {source.uri.partition("#")[2]: source for source in listed().sources}
    assert {part: (source.kind, content(source)) for part, source in found.items()} == {
        "0/images/0": ("image", JPEG + b"0"),
        "0/images/1": ("image", JPEG + b"1"),
        "0/video": ("video", MP4),
    }


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]
)
@pytest.mark.parametrize("in_struct", [False, True])
def test_types_of_bytes(listed: List, folder: Path, kind: pa.DataType, in_struct: bool) -> None:
    data = [JPEG + bytes([row]) for row in range(40)]
    plain = pa.array(data, pa.binary())
    values = plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)
    column = pa.StructArray.from_arrays([values], ["bytes"]) if in_struct else values
    write(folder / "a.parquet", {"photo": column})
    assert [content(source) for source in listed().sources] == data


def test_what_is_no_picture_is_left_out_by_name(listed: List, folder: Path) -> None:
    columns_of = {
        "data": [JPEG + b"0", JPEG + b"1"],
        "md5": [b"\1" * 16, b"\2" * 16],
        "clip_embedding": [bytes(64)] * 2,
        "fixed": pa.array([b"ab"] * 2, pa.binary(2)),
        "nested": [{"a": 1}] * 2,
        "caption": ["x", "y"],
    }
    write(folder / "extra.parquet", columns_of)
    write(folder / "more.parquet", columns_of)
    found = listed()
    assert [source.metadata for source in found.sources] == [{"caption": "x"}, {"caption": "y"}] * 2
    assert found.leftovers.metadata == {
        "column md5 (binary)": 2,
        "column clip_embedding (binary)": 2,
        "column fixed (fixed_size_binary[2])": 2,
        "column nested (struct<a: int64>)": 2,
    }
    assert found.leftovers.lines() == [
        "not carried along: " + ", ".join(f"{what} 2" for what in found.leftovers.metadata)
    ]


def test_bytes_of_sound_are_no_pictures(listed: List, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"x")
    rows = [{"bytes": b"RIFF0000WAVEfmt ", "path": "a.wav"}]
    write(folder / "undeclared.parquet", {"audio": rows})
    features = datasets.Features({"image": datasets.Audio()})
    table = pa.table({"image": rows}).replace_schema_metadata(
        datasets.Dataset.from_dict({"image": []}, features=features).data.schema.metadata
    )
    pq.write_table(table, folder / "declared.parquet")
    found = listed()
    assert ([source.uri for source in found.sources], found.num_ignored) == ([f"{folder}/a.jpg"], 2)


@pytest.mark.parametrize("name", ["data", "bytes"])
def test_bytes_and_path_side_by_side(listed: List, folder: Path, name: str) -> None:
    """Videos by their paths; a row without bytes stands for the file that it names."""
    (folder / "c.mp4").write_bytes(MP4 + b"beside")
    columns_of = {name: [MP4 + b"0", JPEG, None], "path": ["a.mp4", "b.jpg", "c.mp4"], "n": [0, 1, 2]}
    write(folder / "a.parquet", columns_of)
    found = {source.metadata["n"]: source for source in listed().sources}
    assert {n: (source.kind, content(source)) for n, source in found.items()} == {
        0: ("video", MP4 + b"0"),
        1: ("image", JPEG),
        2: ("video", MP4 + b"beside"),
    }


def test_videos_without_a_path_are_known_by_their_bytes(listed: List, folder: Path) -> None:
    write(folder / "a.parquet", {"bytes": [MP4], "n": [1]})
    assert [source.kind for source in listed().sources] == ["video"]


def test_the_shared_lists_and_extras(listed: List, shared_data: Path) -> None:
    found = listed(shared_data / "cases/list_run/in")
    assert [source.uri.rpartition("/in/")[2] for source in found.sources] == [
        "a.jpg",
        "extra.parquet#0",
        "extra.parquet#1",
        "list.parquet#0/0",
        "list.parquet#0/1",
        "list.parquet#1/0",
    ]
    assert found.leftovers.metadata == {"column md5 (binary)": 1, "column clip_embedding (binary)": 1}


def test_captions_of_several_rows_are_all_kept(listed: List, folder: Path) -> None:
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(JPEG)
    names = ["a.jpg"] * 3 + ["b.jpg"]
    captions = ["one", "two", "three", "solo"]
    write(folder / "c.parquet", {"file_name": names, "caption": captions, "same": ["s"] * 4})
    assert [source.metadata for source in listed().sources] == [
        {"caption": ["one", "two", "three"], "same": "s"},
        {"caption": "solo", "same": "s"},
    ]


def test_the_shared_captions_are_all_kept(listed: List, shared_data: Path) -> None:
    sources = listed(shared_data / "cases/multicap/in").sources
    assert sources[0].metadata == {"caption": ["one", "two", "three"]}
    assert [source.ok for source in sources] == [True, False]  # there is no b.jpg


LISTING = """
import resource, sys
from curation.config import parse_config
from curation.ingest.listing import list_inputs
config = {"name": "long", "input": [sys.argv[1]], "output": sys.argv[2], "images": {"filters": ["phash"]}}
config = parse_config(config)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sources = list(list_inputs(config).sources)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(sources), sum("text" in source.metadata for source in sources))
print((peak - before) << 10)
"""


def test_a_long_text_that_all_rows_repeat_takes_bounded_memory(folder: Path, tmp_path: Path) -> None:
    """4,900 times one megabyte in 50 KB; 64 MiB and 16 times the file's size are carried along."""
    text = pa.array(["x" * 1_000_000] * 4900)
    path = write(folder / "b.parquet", {"image": [JPEG] * 4900, "text": text})
    assert path.stat().st_size < 60_000
    done = subprocess.run(
        [sys.executable, "-c", LISTING, folder, tmp_path / "out"],
        capture_output=True,
        text=True,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
        check=True,
    )
    num_sources, num_with_text, grown_bytes = map(int, done.stdout.split())
    assert num_sources == 4900
    assert num_with_text == ((64 << 20) + 16 * path.stat().st_size) // (1_000_000 + len("text"))
    assert grown_bytes < 600 << 20


def test_rows_are_listed_column_wise_as_one_by_one(
    listed: List, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of which most are, with 9,000 rows in groups that no limit divides."""
    numbers = range(9000)
    names = [None if number % 7 == 0 else f"{number}.{'mp4' if number % 3 else 'jpg'}" for number in numbers]
    texts = [None if number % 5 == 0 else f"}}, {{ {number} é" for number in numbers]
    embedded = [{"bytes": JPEG, "path": name} for name in names]
    write(folder / "a.parquet", {"image": embedded, "text": texts, "n": numbers}, row_group_size=2500)
    write(folder / "b.parquet", {"jpg": [JPEG] * 9000, "file_name": names}, row_group_size=4100)
    write(folder / "c.parquet", {"image": [JPEG] * 9000})
    monkeypatch.setattr(reader, "MAX_ENTRIES", 8999)
    column_wise = listed().sources
    monkeypatch.setattr(reader._Listing, "_is_plain", lambda *_: False)
    shutil.rmtree(tmp_path / "out/listing")
    assert listed().sources == column_wise
    assert len(column_wise) == 3 * 9000  # of each file one that says what is wrong with it


def test_a_footer_that_claims_a_billion_rows_is_listed_up_to_the_limit(
    listed: List, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_ENTRIES", 1000)
    write(folder / "a.parquet", {"image": pa.nulls(100_000, pa.binary()), "jpg": [JPEG] * 100_000})
    whole, *rows = listed().sources
    assert len(rows) == 1000
    assert (whole.kind, whole.error) == (
        "container",
        "it holds more than 1000 media; those from row 500 on are not listed",
    )


def test_columns_beyond_the_limit_are_left_out_by_name(
    listed: List, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "MAX_COLUMNS", 2)
    write(folder / "a.parquet", {"image": [JPEG], **{f"c{number}": [number] for number in range(4)}})
    found = listed()
    assert found.sources[0].metadata == {"c0": 0, "c1": 1}
    assert found.leftovers.metadata == {
        "column c2 (one of more than 2)": 1,
        "column c3 (one of more than 2)": 1,
    }


def test_a_huge_footer_is_refused(listed: List, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MAX_FOOTER_BYTES", 1000)
    write(folder / "a.parquet", {"image": [JPEG], **{f"column {number}": [number] for number in range(100)}})
    (whole,) = listed().sources
    assert "its footer of" in (whole.error or "")


def test_names_that_are_not_utf8(listed: List, folder: Path) -> None:
    """Of the file: read all the same. Of a column: named, since Arrow can't read it."""
    table = pa.table({"image": [JPEG], "abc": ["x"]})
    pq.write_table(table, folder / "a.parquet", store_schema=False)
    data = (folder / "a.parquet").read_bytes()
    with open(os.fsencode(folder) + b"/\xff.parquet", "wb") as file:  # noqa: PTH123  a Path can't be bytes
        file.write(data)
    (folder / "a.parquet").write_bytes(data.replace(b"abc", b"a\xffc"))
    named, read = sorted(listed().sources, key=lambda source: source.ok)
    assert named.error == "the name of one of its columns is not UTF-8, which Arrow can't read"
    assert (read.uri, content(read)) == (f"parquet://{folder}/%FF.parquet#0", JPEG)
