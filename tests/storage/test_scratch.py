"""What is fetched into scratch: bounded, ahead of its turn, and gone with the process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bucket_sources import source_of, uploaded
from buckets import S3Server
from curation.errors import ProbeError, StorageError
from curation.ingest.fetching import FETCHES, MAX_AHEAD
from curation.ingest.reach import FETCHED
from curation.ingest.sources import open_source, reading_ahead
from curation.storage import open_storage
from curation.storage.retries import DEADLINE
from curation.storage.scratch import DEFAULT_BYTES, Scratch, scratch, use_scratch
from datasets_media import ROOT, environment
from faulty_proxy import INTERNAL, Delay, FaultyProxy


@pytest.fixture(autouse=True)
def fresh_scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder of its own, and what others may have kept is gone."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    FETCHES.forget()
    use_scratch(str(folder), DEFAULT_BYTES)
    yield folder
    FETCHES.forget()
    use_scratch(None, DEFAULT_BYTES)


def room_used(folder: Path) -> int:
    """Bytes of this process's files in a folder, by the kernel's list of open files."""
    used = 0
    for handle in Path("/proc/self/fd").iterdir():
        try:
            if str(handle.readlink()).startswith(str(folder)):
                used += handle.stat().st_size
        except FileNotFoundError:
            continue  # the handle of the listing itself
    return used


def test_next_objects_are_on_their_way_while_one_is_worked_on(
    s3_server: S3Server, proxy: FaultyProxy
) -> None:
    sources = uploaded(s3_server.new_bucket(), {f"{number}.jpg": b"x" * 1000 for number in range(6)})
    with reading_ahead(sources, lambda: None), open_source(sources[0]):
        deadline = time.monotonic() + 20
        while proxy.count("GET", "*.jpg") < len(sources):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert proxy.count("GET", "*.jpg") == len(sources)


def test_no_more_is_fetched_than_there_is_room_for(
    s3_server: S3Server, proxy: FaultyProxy, fresh_scratch: Path
) -> None:
    size = 100_000
    sources = uploaded(s3_server.new_bucket(), {f"{number}.mp4": b"x" * size for number in range(8)})
    use_scratch(str(fresh_scratch), 3 * size)
    most = 0
    with reading_ahead(sources, lambda: None):
        for source in sources:
            with open_source(source) as path:
                assert isinstance(path, Path)
                time.sleep(0.1)
                most = max(most, room_used(fresh_scratch))
    assert size < most <= 3 * size
    assert room_used(fresh_scratch) == 0
    assert proxy.count("GET", "*.mp4") == len(sources)


def test_object_that_is_larger_than_scratch_is_read_in_ranges(bucket: str, fresh_scratch: Path) -> None:
    data = os.urandom(2_000_000)
    source = source_of(bucket, "large.mp4", data)
    use_scratch(str(fresh_scratch), len(data) - 1)
    with reading_ahead([source], lambda: None), open_source(source) as file:
        assert not isinstance(file, Path)
        assert file.read() == data
        assert room_used(fresh_scratch) == 0


def test_error_of_an_object_that_is_fetched_ahead_is_its_own(bucket: str) -> None:
    sources = uploaded(bucket, {f"{number}.jpg": b"x" * 1000 for number in range(3)})
    open_storage(bucket).delete("1.jpg")
    with reading_ahead(sources, lambda: None):
        with open_source(sources[0]) as first:
            time.sleep(0.2)
            assert isinstance(first, Path)
            assert len(first.read_bytes()) == 1000
        with pytest.raises(ProbeError, match="not there any more"), open_source(sources[1]):
            pass
        with open_source(sources[2]):
            pass


def test_trouble_of_the_bucket_met_ahead_stops_at_the_source_it_was_met_for(
    s3_server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = uploaded(s3_server.new_bucket(), {f"{number}.jpg": b"x" * 1000 for number in range(3)})
    monkeypatch.setenv(DEADLINE, "0.2")
    proxy.add(INTERNAL, key="*1.jpg")
    with reading_ahead(sources, lambda: None):
        with open_source(sources[0]):
            time.sleep(0.5)
        with pytest.raises(StorageError, match=r"1\.jpg"), open_source(sources[1]):
            pass


def test_sources_that_nobody_opens_hold_nothing_up(bucket: str, fresh_scratch: Path) -> None:
    number = MAX_AHEAD + 40
    sources = uploaded(bucket, {f"{place:03d}.jpg": b"x" * 10 for place in range(number)})
    FETCHED.take()
    with reading_ahead(sources, lambda: None):
        for source in sources[:: MAX_AHEAD // 4]:
            with open_source(source):
                pass
    assert FETCHED.take() <= 10 * number
    assert room_used(fresh_scratch) == 0


FETCH_AND_WAIT = """
import sys, time
from bucket_sources import source_of
from curation.ingest.sources import open_source, reading_ahead
from curation.storage.scratch import use_scratch
use_scratch(sys.argv[1], 2**30)
sources = [source_of(sys.argv[2], f"{number}.mp4") for number in range(3)]
with reading_ahead(sources, lambda: None), open_source(sources[0]):
    time.sleep(3600)
"""


def test_kill_leaves_nothing_in_scratch(s3_server: S3Server, proxy: FaultyProxy, fresh_scratch: Path) -> None:
    url = s3_server.new_bucket()
    uploaded(url, {f"{number}.mp4": b"x" * 20_000_000 for number in range(3)})
    proxy.clear()
    proxy.add(Delay(60), method="GET", key="*2.mp4")  # being fetched when the kill comes
    variables = environment() | proxy.environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen([sys.executable, "-c", FETCH_AND_WAIT, str(fresh_scratch), url], env=variables)
    try:
        deadline = time.monotonic() + 60
        while proxy.answer_bytes("GET", "*[01].mp4") < 40_000_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        handles = [str(handle.readlink()) for handle in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert sum(name.startswith(str(fresh_scratch)) for name in handles) == 3
        assert list(fresh_scratch.iterdir()) == []  # no names, even while it works
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(fresh_scratch.iterdir()) == []


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 2 MB at a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        FETCHES.forget()
        subprocess.run(["umount", folder], check=True)


@contextmanager
def small_files() -> Iterator[None]:
    """This process may write no file of more than 2 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("is_disk", [False, True])
def test_full_scratch_is_named_and_blames_no_source(bucket: str, fresh_scratch: Path, is_disk: bool) -> None:
    if is_disk and os.geteuid() != 0:
        pytest.skip("only root can mount a disk; a limit stands in for it")
    source = source_of(bucket, "a.mp4", b"x" * 6_000_000)
    says = "No space left on device" if is_disk else "File too large"
    with small_disk(fresh_scratch) if is_disk else small_files():
        with pytest.raises(StorageError, match=f"{fresh_scratch}: {says}"), open_source(source):
            pass
        assert room_used(fresh_scratch) == 0


def test_what_is_there_to_spare_goes_when_its_room_is_needed_and_the_oldest_first() -> None:
    room, gone = Scratch(None, 10), list[str]()

    def spare(name: str, num_bytes: int) -> None:
        def close() -> None:
            gone.append(name)
            room.give_back(num_bytes)

        assert room.take(num_bytes)
        room.spare(close)

    for name in "abc":
        spare(name, 3)
    assert gone == []
    assert room.take(2)
    assert gone == ["a"]
    assert not room.take(11)  # it would not fit into an empty folder
    assert gone == ["a"]
    assert not room.take(9)  # two are in use
    assert gone == ["a", "b", "c"]
    assert room.take(8)
    assert not room.take(1)


def test_nothing_that_was_there_to_spare_is_left_of_another_folder(tmp_path: Path) -> None:
    gone = list[str]()
    scratch().spare(lambda: gone.append("a"))
    use_scratch(str(tmp_path), 10)
    assert gone == ["a"]


def test_what_is_there_to_spare_stays_for_the_next_round_and_no_longer() -> None:
    room, gone = Scratch(None, 10), list[str]()
    room.spare(lambda: gone.append("a"))
    room.next_round()
    room.spare(lambda: gone.append("b"))
    assert gone == []
    room.next_round()
    assert gone == ["a"]
    room.next_round()
    assert gone == ["a", "b"]
