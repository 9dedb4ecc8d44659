"""Files that are replaced while a run works on them: no row holds scores of one and codes of the other."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.errors import ChangedError, DecodeError
from curation.execution.worker.worker import UnitWorker
from curation.ingest import files
from curation.ingest.media_readers import VideoReader, read_again
from curation.ingest.sources import open_source
from curation.ledger import Ledger
from curation.ledger.unit_state import RecomputePolicy
from curation.media.decoder import DecoderSettings
from curation.records import Sample, Source
from curation.report.summary.summary import summarize
from curation.stage import View
from curation.storage import digest
from curation.storage.digest import digest_of
from datasets_media import Bench, config_data, write_photo, write_video

NAMES = {"a.jpg", "b.mp4", "c.tar#0.jpg", "d.parquet#0", "e.parquet#0"}
"""Sources; e.parquet is there so that d.parquet is not the file that is open when it is replaced."""
SIZE_BYTES = 30_000


def photo(tmp_path: Path, seed: int) -> bytes:
    """A picture of `SIZE_BYTES`: what stands behind its end is not looked at (ITU-T T.81, B.1.1.3)."""
    write_photo(tmp_path / "photo.jpg", seed)
    return (tmp_path / "photo.jpg").read_bytes().ljust(SIZE_BYTES, b"\0")


def video(tmp_path: Path, seed: int) -> bytes:
    """A video of `SIZE_BYTES`: the rest is a box that stands for free space (ISO/IEC 14496-12, 8.1.2)."""
    write_video(tmp_path / "video.mp4", [(25, seed)])
    data = (tmp_path / "video.mp4").read_bytes()
    return data + struct.pack(">I4s", SIZE_BYTES - len(data), b"free").ljust(SIZE_BYTES - len(data), b"\0")


def tar(photo: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        header = tarfile.TarInfo("0.jpg")
        header.size = len(photo)
        archive.addfile(header, io.BytesIO(photo))
    return file.getvalue()


def parquet(photo: bytes) -> bytes:
    file = io.BytesIO()
    pq.write_table(
        pa.table({"image": [photo]}), file, compression="none", write_statistics=False, use_dictionary=False
    )
    return file.getvalue()


def write_all(folder: Path, tmp_path: Path, seed: int) -> None:
    """One of each kind, of sizes that do not depend on the seed."""
    (folder / "a.jpg").write_bytes(photo(tmp_path, seed))
    (folder / "b.mp4").write_bytes(video(tmp_path, seed + 1))
    (folder / "c.tar").write_bytes(tar(photo(tmp_path, seed + 2)))
    (folder / "d.parquet").write_bytes(parquet(photo(tmp_path, seed + 3)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    write_all(folder, tmp_path, 0)
    (folder / "e.parquet").write_bytes(parquet(photo(tmp_path, 9)))
    return folder


@pytest.fixture
def bench(folder: Path, vocabulary: Path, tmp_path: Path) -> Bench:
    """Every kind of source, filtered and not yet captioned."""
    data = config_data(folder, tmp_path / "out", vocabulary)
    data["images"] = {
        "filters": ["color"],
        "color": {"min_colorfulness": None, "min_untinted_colorfulness": None},
    }
    bench = Bench(data)
    work(bench, "probe", "filter")
    return bench


def work(bench: Bench, *phases: str, recompute: RecomputePolicy | None = None) -> None:
    worker = UnitWorker(bench.pipeline)
    for phase in phases:
        for task in bench.tasks(phase, recompute):
            worker.work(task)


def replaced(folder: Path, tmp_path: Path, *, silently: bool) -> None:
    """Write other media of the same size into the same files, all but one; silently: with their old dates."""
    before = {path: path.stat() for path in folder.iterdir()}
    write_all(folder, tmp_path, 20)
    for path, status in before.items():
        assert path.stat().st_size == status.st_size
        if silently:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif path.name != "e.parquet":
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def said_of(bench: Bench) -> set[str]:
    summary = summarize(bench.ledger, bench.pipeline)
    return {failure.error for failure in summary.failures}


@pytest.mark.parametrize("silently", [False, True])
def test_what_is_tokenized_is_what_was_measured(
    bench: Bench, folder: Path, tmp_path: Path, silently: bool
) -> None:
    measured = {key: bench.rows(key) for key in ("images.color", "videos.color")}
    replaced(folder, tmp_path, silently=silently)
    work(bench, "enrich")
    gone = dict.fromkeys(NAMES, "failed ChangedError") | {"e.parquet#0": "kept"}
    assert bench.outcomes() == gone
    assert len([row for row, error in bench.rows("tokens").values() if not error]) == 1
    assert all("was changed since it was listed" in said for said in said_of(bench))
    assert {"touch the file" in said for said in said_of(bench)} == {silently}
    for name in {"a.jpg", "b.mp4", "c.tar", "d.parquet"}:
        os.utime(folder / name)
    bench.run()
    assert bench.outcomes() == dict.fromkeys(NAMES, "kept")
    assert said_of(bench) == set()
    for key, rows in measured.items():
        fresh = set(bench.rows(key)) - set(rows)
        assert fresh
        assert {str(bench.rows(key)[name]) for name in fresh}.isdisjoint(map(str, rows.values()))


def test_a_filter_that_comes_later_sees_what_the_first_ones_saw(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    data = dict(bench.config.resolved)
    for branch in ("images", "videos"):
        data[branch] = {**data[branch], "filters": [*data[branch]["filters"], "thumbnail"]}
    replaced(folder, tmp_path, silently=True)
    later = Bench(data)
    work(later, "filter")
    assert later.outcomes() == dict.fromkeys(NAMES, "failed ChangedError") | {"e.parquet#0": "pending"}


def test_sources_of_old_ledgers_have_no_hash_and_are_not_held_against_one(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    for unit in bench.ledger.units():
        sources = [replace(source, content_hash=None) for source in bench.ledger.sources(unit)]
        bench.ledger.replace_sources(unit, sources)
    replaced(folder, tmp_path, silently=True)
    work(bench, "enrich")
    assert bench.outcomes() == dict.fromkeys(NAMES, "kept")


def sources_of(ledger: Ledger) -> dict[str, Source]:
    return {
        source.uri.rpartition("/")[2]: source for unit in ledger.units() for source in ledger.sources(unit)
    }


@pytest.mark.parametrize("name", sorted(NAMES - {"e.parquet#0"}))
def test_previews_show_what_was_tokenized_or_nothing(
    bench: Bench, folder: Path, tmp_path: Path, name: str
) -> None:
    source = sources_of(bench.ledger)[name]
    sample = Sample.of_image(source)
    if source.kind == "video":
        sample = Sample.of_span(source.source_id, 0.0, 1.0)

    def look() -> Any:
        return read_again(source, sample, View(short_side=32), decoder=DecoderSettings())

    assert len(look().pixels)
    replaced(folder, tmp_path, silently=True)
    with open_source(sources_of(bench.ledger)["e.parquet#0"]), pytest.raises(ChangedError):
        look()


# While a file is read


def a_video(folder: Path) -> Source:
    path = folder / "b.mp4"
    return Source(
        source_id="s", uri=str(path), kind="video", size_bytes=1, etag="e", content_hash=sha256(path)
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_video_that_is_written_to_while_it_is_decoded_is_noticed_at_the_next_frame(folder: Path) -> None:
    reader = iter(VideoReader(a_video(folder), DecoderSettings(), lambda: None))
    for _ in range(5):
        next(reader)
    with (folder / "b.mp4").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ChangedError):
        next(reader)


def test_a_video_that_another_one_takes_the_place_of_is_read_to_its_end(folder: Path, tmp_path: Path) -> None:
    """As a download does that renames its file when it is complete."""
    whole = len(list(VideoReader(a_video(folder), DecoderSettings(), lambda: None)))
    reader = iter(VideoReader(a_video(folder), DecoderSettings(), lambda: None))
    next(reader)
    (tmp_path / "new.mp4").write_bytes(b"something else")
    (tmp_path / "new.mp4").replace(folder / "b.mp4")
    assert len(list(reader)) == whole - 1


@pytest.mark.parametrize("is_large", [False, True])
def test_a_picture_is_read_from_one_state_of_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    """Small ones are copied before they are hashed; large ones are watched."""
    monkeypatch.setattr(files, "_COPIED_BYTES", {"image": 1 if is_large else 2**26})
    path = folder / "a.jpg"
    before = path.read_bytes()
    source = Source(
        source_id="s", uri=str(path), kind="image", size_bytes=1, etag="e", content_hash=sha256(path)
    )

    def read(also: Callable[[], Any]) -> bytes:
        with open_source(source) as opened:
            path.write_bytes(b"other bytes")
            also()
            return opened.read_bytes()

    def fail() -> None:
        raise DecodeError("cut off")

    if not is_large:
        assert read(lambda: None) == before
        return
    with pytest.raises(ChangedError):
        read(lambda: None)
    path.write_bytes(before)
    with pytest.raises(ChangedError):
        read(fail)


# How often a file is hashed


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were hashed."""
    calls: list[str] = []
    hash_file = hashlib.file_digest

    def noting(file: Any, name: str) -> Any:
        calls.append(file.name)
        return hash_file(file, name)

    monkeypatch.setattr(hashlib, "file_digest", noting)
    return calls


def test_a_video_that_did_not_change_is_hashed_once_in_a_process(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_SETTLED_NS", 0)
    source = a_video(folder)
    for _ in range(3):
        with open_source(source):
            pass
    assert len(hashed) == 1


def test_a_file_that_was_written_to_just_now_is_hashed_again(folder: Path, hashed: list[str]) -> None:
    """Two changes within a tick of the file system's clock leave the same dates."""
    path = folder / "b.mp4"
    first = digest_of(path)
    assert digest_of(path) == first == sha256(path)
    assert len(hashed) == 2
