"""Media in buckets: what readers give of them, and what becomes of a bucket's troubles."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bucket_sources import part_of, source_of, uploaded
from buckets import S3Server
from curation.errors import ChangedError, ProbeError, StorageError
from curation.ingest.sources import open_source
from curation.media.probe import probe
from curation.records import Source
from curation.storage import open_storage
from curation.storage.buckets.retries import DEADLINE
from datasets_media import write_photo, write_video


def content(source: Source) -> bytes:
    with open_source(source) as path:
        return path.read_bytes()


@pytest.fixture
def photos(tmp_path: Path) -> list[bytes]:
    """Three pictures, as the bytes of JPEG files."""
    for seed in range(3):
        write_photo(tmp_path / f"{seed}.jpg", seed)
    return [(tmp_path / f"{seed}.jpg").read_bytes() for seed in range(3)]


@pytest.fixture
def film(tmp_path: Path) -> bytes:
    """A video of two scenes, as the bytes of an MP4 file."""
    write_video(tmp_path / "film.mp4", [(10, 30), (10, 200)])
    return (tmp_path / "film.mp4").read_bytes()


def test_object_is_read_whole_whatever_it_is_called_and_however_large(bucket: str) -> None:
    files = {
        "a b.jpg": b"small",
        "deep/er/ü#1?%41.jpg": b"odd name",
        "empty.jpg": b"",
        "large.mp4": bytes(range(256)) * (20 << 12),  # 20 MiB: of several requests
    }
    for source, data in zip(uploaded(bucket, files), files.values(), strict=True):
        assert content(source) == data


def test_members_and_rows_of_containers_are_read(bucket: str, photos: list[bytes], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, data in enumerate(photos):
            header = tarfile.TarInfo(f"{number}.jpg")
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    with tarfile.open(tmp_path / "a.tar") as archive:
        places = [(member.name, member.offset_data, member.size) for member in archive]
    pq.write_table(pa.table({"image": photos}), tmp_path / "a.parquet")
    packed = source_of(bucket, "in/a.tar", (tmp_path / "a.tar").read_bytes())
    members = [part_of(packed, "tar", *place) for place in places]
    table = source_of(bucket, "in/a.parquet", (tmp_path / "a.parquet").read_bytes())
    rows = [part_of(table, "parquet", str(row), row) for row in range(3)]
    assert [content(source) for source in members] == photos
    assert [content(source) for source in rows] == photos


def test_probing_reads_headers_and_hashes(bucket: str, photos: list[bytes], film: bytes) -> None:
    for key, data, size in (("a.jpg", photos[0], (96, 80)), ("a.mp4", film, (128, 64))):
        source = source_of(bucket, key, data)
        with open_source(source) as path:
            probed = probe(source, path)
        assert (probed.width, probed.height) == size
        assert probed.content_hash == hashlib.sha256(data).hexdigest()


def test_object_that_was_replaced_or_removed_fails_alone(bucket: str, photos: list[bytes]) -> None:
    changed = source_of(bucket, "changed.jpg", photos[0])
    gone = source_of(bucket, "gone.jpg", photos[1])
    storage = open_storage(bucket)
    storage.write("changed.jpg", photos[2])
    storage.delete("gone.jpg")
    with pytest.raises(ChangedError, match="was changed since it was listed"):
        content(changed)
    with pytest.raises(ProbeError, match="not there any more"):
        content(gone)


def test_server_that_is_away_stops_the_run_and_blames_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[bytes]
) -> None:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        source = source_of(server.new_bucket(), "a.jpg", photos[0])
        server.kill()
        monkeypatch.setenv(DEADLINE, "1")
        with pytest.raises(StorageError, match=r"a\.jpg"):
            content(source)
