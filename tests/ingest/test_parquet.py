"""Parquet files, written by `datasets` and by pyarrow."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.table import embed_table_storage

from curation.errors import ChangedError, ProbeError
from curation.ingest.sources import open_source
from curation.records import Source
from datasets_media import List


def write(path: Path, rows: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(rows), path, **options)
    return path


def content(source: Source) -> bytes:
    with open_source(source) as path:
        return path.read_bytes()


def test_images_of_hugging_face_datasets(
    listed: List, folder: Path, photos: list[bytes], tmp_path: Path
) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    pictures = [str(tmp_path / f"{number}.jpg") for number in range(3)]
    made = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 0]}, features=features)
    made = made.with_format("arrow").map(embed_table_storage, batched=True)  # as pushing to the hub does
    path = folder / "train-00000-of-00001.parquet"
    made.to_parquet(path)
    found = listed()
    assert [source.uri for source in found.sources] == [f"parquet://{path}#{row}" for row in range(3)]
    assert [dict(source.metadata) for source in found.sources] == [{"label": 0}, {"label": 1}, {"label": 0}]
    assert [content(source) for source in found.sources] == photos
    assert found.num_ignored == 0


def test_laion_columns_come_with_plain_bytes(listed: List, folder: Path, photos: list[bytes]) -> None:
    columns = {
        "URL": ["https://a/0", "https://a/1", None],
        "TEXT": ["red", "green", "blue"],
        "AESTHETIC_SCORE": [5.5, 6.25, 4.0],
        "similarity": [0.3, float("nan"), 0.2],
        "WIDTH": [24, 24, 24],
        "day": [dt.date(2022, 1, 2)] * 3,
        "price": [Decimal("1.50")] * 3,
        "embedding": [[0.1, 0.2]] * 3,
    }
    write(folder / "a.parquet", columns | {"jpg": photos})
    first, second, third = listed().sources
    assert first.metadata == {
        "URL": "https://a/0",
        "TEXT": "red",
        "AESTHETIC_SCORE": 5.5,
        "similarity": 0.3,
        "WIDTH": 24,
        "day": "2022-01-02",
        "price": "1.50",
    }
    assert "similarity" not in second.metadata
    assert "URL" not in third.metadata
    assert [content(source) for source in (first, second, third)] == photos


@pytest.mark.parametrize("order", [range(100), range(99, -1, -1), (7, 63, 8, 64, 0, 99)])
def test_rows_are_found_across_row_groups_in_any_order(listed: List, folder: Path, order: Any) -> None:
    data = [f"picture {row}".encode() for row in range(100)]
    write(folder / "a.parquet", {"image": data}, row_group_size=17)
    sources = listed().sources
    assert [content(sources[row]) for row in order] == [data[row] for row in order]


def test_several_columns_of_media_are_several_sources_of_a_row(listed: List, folder: Path) -> None:
    mask = b"\x89PNG\r\n\x1a\n"
    columns = {"image": [b"1", b"2"], "mask": [mask + b"3", mask + b"4"], "video": [b"5", None]}
    path = write(folder / "a.parquet", columns)
    found = {source.uri.partition("#")[2]: source for source in listed().sources}
    assert list(found) == ["0/image", "0/mask", "0/video", "1/image", "1/mask", "1/video"]
    assert [content(found[part]) for part in ("1/mask", "0/image", "0/video")] == [
        mask + b"4",
        b"1",
        b"5",
    ]
    assert {part: source.kind for part, source in found.items() if source.kind == "video"} == {
        "0/video": "video",
        "1/video": "video",
    }
    with pytest.raises(ProbeError, match="it holds no media"):
        content(found["1/video"])
    assert found["0/image"].uri.startswith(f"parquet://{path}")


def test_a_struct_tells_the_kind_by_its_path_or_points_to_a_file(listed: List, folder: Path) -> None:
    rows = [
        {"bytes": b"1", "path": "a.mp4"},
        {"bytes": None, "path": "sub/b.bin"},
        {"bytes": None, "path": None},
    ]
    (folder / "sub").mkdir()
    (folder / "sub/b.bin").write_bytes(b"beside")
    write(folder / "a.parquet", {"media": rows})
    beside, clip, nothing = listed().sources
    assert beside.uri == f"{folder}/sub/b.bin"
    assert (clip.kind, beside.kind, nothing.kind) == ("video", "image", "image")
    assert (content(clip), content(beside)) == (b"1", b"beside")
    with pytest.raises(ProbeError, match="it holds no media and names no file"):
        content(nothing)


def test_rows_that_name_files_add_to_what_these_carry(
    listed: List, folder: Path, photos: list[bytes]
) -> None:
    (folder / "part").mkdir()
    for number, data in enumerate(photos):
        (folder / f"part/{number}.jpg").write_bytes(data)
    (folder / "part/0.txt").write_text("said beside it")
    names = ["0.jpg", "part/1.jpg", "missing.jpg", None]
    columns = {"file_name": names, "score": [1.0, 2.0, 3.0, 4.0]}
    write(folder / "part/metadata.parquet", columns)
    found = {source.uri.removeprefix(f"{folder}/part/"): source for source in listed().sources}
    prefix = f"parquet://{folder}/part/metadata.parquet"
    assert {name: source.metadata for name, source in found.items()} == {
        "0.jpg": {"caption": "said beside it", "score": 1.0},
        "1.jpg": {"score": 2.0},
        "2.jpg": {},
        f"{prefix}#2": {"file_name": "missing.jpg", "score": 3.0},
        f"{prefix}#3": {"score": 4.0},
    }
    assert content(found["1.jpg"]) == photos[1]
    with pytest.raises(ProbeError, match=r"it names 'missing\.jpg', which is no file of the input"):
        content(found[f"{prefix}#2"])


@pytest.mark.parametrize(
    "columns",
    [
        {"URL": ["https://a/0.jpg"], "TEXT": ["red"]},
        {"number": [1]},
        {"path": ["notes.md"]},
        {"sample_id": ["a"], "codes": [b"1"], "grid_t": [1], "grid_h": [1], "grid_w": [1]},
    ],
    ids=["addresses", "numbers", "other files", "own shards"],
)
def test_a_table_without_media_is_ignored(listed: List, folder: Path, columns: dict[str, Any]) -> None:
    (folder / "a.jpg").write_bytes(b"x")
    write(folder / "a.parquet", columns)
    found = listed()
    assert ([source.uri for source in found.sources], found.num_ignored) == ([f"{folder}/a.jpg"], 1)


@pytest.mark.parametrize("how", ["cut off", "empty", "no parquet"])
def test_a_damaged_file_is_a_failed_source_and_the_rest_is_there(
    listed: List, folder: Path, photos: list[bytes], how: str
) -> None:
    path = write(folder / "a.parquet", {"image": photos})
    write(folder / "b.parquet", {"image": photos})
    whole = path.read_bytes()
    path.write_bytes({"cut off": whole[: len(whole) // 2], "empty": b"", "no parquet": b"text" * 50}[how])
    damaged, *rest = listed().sources
    assert (damaged.uri, damaged.kind, damaged.error_type) == (f"parquet://{path}", "container", "ProbeError")
    assert (damaged.error or "").startswith("damaged: ")
    assert [content(source) for source in rest] == photos


def test_a_damaged_row_group_fails_its_rows_and_no_others(listed: List, folder: Path) -> None:
    data = [bytes([row]) * 3000 for row in range(40)]
    path = write(
        folder / "a.parquet", {"image": data}, row_group_size=10, compression="zstd", use_dictionary=False
    )
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    start = chunk.data_page_offset
    raw[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(raw)
    failed = []
    for row, source in enumerate(listed().sources):
        try:
            assert content(source) == data[row]
        except ProbeError:
            failed.append(row)
    assert failed == list(range(10, 20))


def test_a_file_that_changes_after_listing_is_not_read(
    listed: List, folder: Path, photos: list[bytes]
) -> None:
    path = write(folder / "a.parquet", {"image": photos})
    first = listed().sources[0]
    assert content(first) == photos[0]
    write(path, {"image": photos[1:]})
    with pytest.raises(ChangedError, match="was changed since it was listed"):
        content(first)
    assert content(listed().sources[0]) == photos[1]
