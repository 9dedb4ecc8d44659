"""The demo's photos and videos from buckets and into them: the same shards wherever they come from."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import buckets
from buckets import S3Server
from datasets_media import ROOT, contents, curation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_OF_THE_PLACE = ("sample_id", "source_id", "source_uri", "split", "caption", "text_ids", "carried")
"""Columns that follow from what a source is called: ids, and what is drawn by them."""


@pytest.fixture(scope="module")
def in_bucket(demo: Path, s3_server: S3Server) -> str:
    """A bucket with the demo's media, plain below `plain` and packed below `packed`."""
    url = s3_server.new_bucket()
    media = sorted((demo / "demo/input").iterdir())
    buckets.upload(s3_server, demo / "demo/input", f"{url}/plain")
    for name, data in (("a.tar", _as_tar(media[::2])), ("b.parquet", _as_parquet(media[1::2]))):
        with s3_server.files().open_output_stream(f"{url}/packed/{name}".removeprefix("s3://")) as file:
            file.write(data)
    return url


def test_from_a_folder_into_a_bucket(demo: Path, bucket: str, s3_server: S3Server) -> None:
    _run(demo, "--output", f"{bucket}/out")
    assert buckets.contents(s3_server, f"{bucket}/out/shards") == contents(demo / "demo/output/shards")


def test_from_a_bucket_into_a_bucket_and_into_a_folder(
    demo: Path, in_bucket: str, bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    _run(demo, "--input", f"{in_bucket}/plain", "--output", f"{bucket}/out")
    _run(demo, "--input", f"{in_bucket}/plain", "--output", tmp_path, "--set", "run.workers=1")
    shards = buckets.contents(s3_server, f"{bucket}/out/shards")
    assert shards == contents(tmp_path / "shards")
    assert _samples(shards) == _samples(contents(demo / "demo/output/shards"))
    assert _samples(shards)


def test_from_tars_and_parquet_in_a_bucket(
    demo: Path, in_bucket: str, bucket: str, s3_server: S3Server
) -> None:
    _run(demo, "--input", f"{in_bucket}/packed", "--output", f"{bucket}/out")
    shards = buckets.contents(s3_server, f"{bucket}/out/shards")
    assert _samples(shards) == _samples(contents(demo / "demo/output/shards"))


def _run(demo: Path, *args: str | Path) -> str:
    return curation("run", "--config", ROOT / "configs/demo.yaml", *args, cwd=demo)


def _samples(shards: Mapping[str, bytes]) -> list[Any]:
    """All samples of shards, without what depends on where they come from."""
    rows: list[dict[str, Any]] = []
    for key, data in shards.items():
        if key.endswith(".parquet"):
            rows += pq.read_table(io.BytesIO(data)).to_pylist()
    return sorted((_without_place(row) for row in rows), key=repr)


def _without_place(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _OF_THE_PLACE}


def _as_tar(paths: Iterable[Path]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for path in paths:
            tar.add(path, path.name)
    return sink.getvalue()


def _as_parquet(paths: Iterable[Path]) -> bytes:
    sink = io.BytesIO()
    media = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    pq.write_table(pa.table({"media": media}), sink)
    return sink.getvalue()
