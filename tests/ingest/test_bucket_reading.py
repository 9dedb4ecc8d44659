"""Media in buckets: what readers give of them, and what becomes of a bucket's troubles."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bucket_sources import noise, part_of, source_of, uploaded
from buckets import S3Server
from curation.errors import ChangedError, ProbeError, StorageError
from curation.ingest.fetching import FETCHES
from curation.ingest.media_readers import VideoReader
from curation.ingest.reach import FETCHED
from curation.ingest.sources import open_source, reading_ahead
from curation.media.decoder import DecoderSettings
from curation.media.probe import probe
from curation.records import Source
from curation.storage import open_storage
from curation.storage.digest import HashedFile
from curation.storage.object_file import READ_AHEAD_BYTES
from curation.storage.retries import DEADLINE
from curation.storage.scratch import DEFAULT_BYTES, use_scratch
from datasets_media import write_photo, write_video
from faulty_proxy import FaultyProxy


@pytest.fixture(autouse=True)
def scratch_of_before() -> Iterator[None]:
    """Tests may take less of it."""
    yield
    use_scratch(None, DEFAULT_BYTES)


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
    places = a_tar(tmp_path / "a.tar", {f"{number}.jpg": data for number, data in enumerate(photos)})
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


def a_tar(path: Path, files: Mapping[str, bytes]) -> list[tuple[str, int, int]]:
    """Name, place and size of its members."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    with tarfile.open(path) as archive:
        return [(member.name, member.offset_data, member.size) for member in archive]


def test_tar_that_is_read_in_order_is_fetched_once_by_few_requests(bucket: str, tmp_path: Path) -> None:
    files = {f"{number:03d}.jpg": bytes([number]) * 100_000 for number in range(60)}
    places = a_tar(tmp_path / "a.tar", files)
    packed = source_of(bucket, "a.tar", (tmp_path / "a.tar").read_bytes())
    members = [part_of(packed, "tar", *place) for place in places]
    FETCHED.take()
    assert content(members[30]) == files["030.jpg"]
    assert FETCHED.take() == 100_000  # nothing ahead, where nobody asks for more
    with reading_ahead(members, lambda: None):
        assert [content(source) for source in members] == [*files.values()]
    assert FETCHED.take() <= 1.01 * sum(map(len, files.values()))


@pytest.mark.parametrize("form", ["mp4", "mkv"])
def test_of_a_long_video_little_more_than_a_clip_is_fetched(bucket: str, tmp_path: Path, form: str) -> None:
    data = noise(form, 120, tmp_path)
    source = source_of(bucket, f"long.{form}", data)
    with open_source(source) as path:
        probed = probe(source, path)
    times = [frame.pts_s for frame in VideoReader(source, DecoderSettings(), lambda: None)]
    FETCHES.forget()
    FETCHED.take()
    reader = VideoReader(probed, DecoderSettings(), lambda: None, 60.0, span_s=4.0)
    found = list(takewhile(lambda pts_s: pts_s < 64, (frame.pts_s for frame in reader)))
    assert [pts_s for pts_s in found if pts_s >= 60] == [pts_s for pts_s in times if 60 <= pts_s < 64]
    # The clip, a second and a group of pictures before it, what is read ahead, and the index.
    assert FETCHED.take() <= 10 / 120 * len(data) + READ_AHEAD_BYTES + (1 << 17)


@pytest.mark.parametrize("form", ["mp4", "mkv", "ts"])
def test_video_without_room_in_scratch_is_fetched_once_to_be_hashed_and_probed(
    bucket: str, tmp_path: Path, form: str
) -> None:
    data = noise(form, 150, tmp_path)  # more than is held of a file that is read in ranges
    source = source_of(bucket, f"long.{form}", data)
    with_room = source_of(bucket, f"same.{form}", data)
    with open_source(with_room) as path:
        expected = probe(with_room, path)
    use_scratch(str(tmp_path), len(data) - 1)
    FETCHED.take()
    with open_source(source) as file:
        assert not isinstance(file, Path)
        probed = probe(source, file)
    assert probed.content_hash == hashlib.sha256(data).hexdigest()
    assert replace(probed, source_id="", uri="") == replace(expected, source_id="", uri="")
    # The index at the end of an MP4, and what is read of a stream's end to know how long it lasts.
    assert FETCHED.take() <= 1.05 * len(data)


def test_what_is_no_video_is_hashed_all_the_same(bucket: str, tmp_path: Path) -> None:
    data = b"no video" * 100_000
    source = source_of(bucket, "a.mp4", data)
    use_scratch(str(tmp_path), len(data) - 1)
    with open_source(source) as file:
        probed = probe(source, file)
    assert probed.error_type == "ProbeError"
    assert probed.content_hash == hashlib.sha256(data).hexdigest()


def test_file_is_hashed_in_whatever_order_it_is_read(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (tmp_path / "a").write_bytes(data)
    draw = random.Random(7)
    for _ in range(50):
        with (tmp_path / "a").open("rb") as file:
            hashed = HashedFile(file)
            for _ in range(draw.randrange(20)):
                start, end = sorted(draw.randrange(110_000) for _ in range(2))
                hashed.seek(start)
                assert hashed.read(end - start) == data[start:end]
                assert hashed.tell() == max(start, min(end, len(data)))
            assert hashed.digest() == hashlib.sha256(data).hexdigest()


def test_server_that_dies_while_ranges_are_decoded_is_no_damage_of_the_file(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise("mp4", 120, tmp_path)
    with FaultyProxy(s3_server.port) as proxy:
        for name, value in proxy.environment.items():
            monkeypatch.setenv(name, value)
        url = s3_server.new_bucket()
        source = source_of(url, "long.mp4", data)
        with open_source(source) as path:
            probed = probe(source, path)
        FETCHES.forget()
        monkeypatch.setenv(DEADLINE, "0.5")
        frames = iter(VideoReader(probed, DecoderSettings(), lambda: None, 20.0, span_s=40.0))
        next(frames)
        with proxy.away(), pytest.raises(StorageError, match=r"long\.mp4"):
            list(frames)


def test_video_that_changes_between_two_ranges_is_changed_and_not_damaged(
    bucket: str, tmp_path: Path
) -> None:
    source = source_of(bucket, "long.mp4", noise("mp4", 120, tmp_path))
    with open_source(source) as path:
        probed = probe(source, path)
    FETCHES.forget()
    frames = iter(VideoReader(probed, DecoderSettings(), lambda: None, 20.0, span_s=40.0))
    next(frames)
    open_storage(bucket).write("long.mp4", b"something else")
    with pytest.raises(ChangedError):
        list(frames)


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
