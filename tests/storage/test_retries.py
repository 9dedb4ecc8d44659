"""Faults between us and a bucket: tried again while that may help, then one sentence, and nothing lost."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from buckets import SECRET_KEY, S3Server, contents
from curation.errors import StorageError, WriteConflict
from curation.storage import Storage, open_storage
from curation.storage.base import ABSENT
from curation.storage.retries import DEADLINE
from faulty_proxy import (
    DENIED,
    EXPIRED,
    INTERNAL,
    SLOW_DOWN,
    TOO_MANY,
    Answer,
    ChangeHeaders,
    CutAnswer,
    CutRequest,
    Fault,
    FaultyProxy,
    LoseAnswer,
    Silence,
)

DEADLINE_S = 3.0
TRANSIENT = [SLOW_DOWN, TOO_MANY, INTERNAL, CutRequest(), LoseAnswer(), Silence(), CutAnswer(3)]


@pytest.fixture
def proxy(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> FaultyProxy:
    monkeypatch.setenv(DEADLINE, str(DEADLINE_S))
    return proxy


@pytest.fixture
def storage(proxy: FaultyProxy, bucket: str) -> Storage:
    return open_storage(f"{bucket}/root")


def _named(faults: list[Fault]) -> list[object]:
    return [pytest.param(fault, id=getattr(fault, "code", type(fault).__name__)) for fault in faults]


@pytest.mark.parametrize("fault", _named(TRANSIENT))
def test_one_bad_request_is_not_noticed(fault: Fault, proxy: FaultyProxy, storage: Storage) -> None:
    operations = {
        "write": lambda: storage.write("a", b"0123456789"),
        "replace": lambda: storage.write("a", b"9876543210", expect=storage.read_versioned("a")[1]),
        "create": lambda: storage.write("b", b"another", expect=ABSENT),
        "read": lambda: storage.read("a"),
        "find": lambda: storage.find("a"),
        "open": lambda: storage.open("a").read(),
        "list": lambda: [item.key for item in storage.list("")],
        "delete": lambda: storage.delete("b"),
    }
    found = {}
    for name, operation in operations.items():
        num_met = sum(one.fault is fault for one in proxy.requests())
        proxy.add(fault, times=1)
        found[name] = operation()
        assert sum(one.fault is fault for one in proxy.requests()) == num_met + 1, name
    assert found["read"] == found["open"] == b"9876543210"
    assert found["find"] == storage.find("a")
    assert found["list"] == ["a", "b"]
    assert storage.find("b") is None


def test_a_server_that_is_away_costs_the_time_that_it_is_away(
    proxy: FaultyProxy, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEADLINE, "60")
    storage.write("a", b"data")
    waiting = proxy.away_for(8)
    started = time.monotonic()
    assert storage.read("a") == b"data"
    waited_s = time.monotonic() - started
    waiting.join()
    assert 7 < waited_s < 8 + 3.5, "the cap of the back-off is 3 s"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (SLOW_DOWN, r"503 SlowDown: Please reduce your request rate\. \(tried for \d s\)"),
        (Silence(), r"http://127\.0\.0\.1:\d+ does not answer in time \(tried for \d s\)"),
        (CutRequest(), r"http://127\.0\.0\.1:\d+: the connection broke off \(tried for \d s\)"),
    ],
    ids=["throttled", "silent", "cut"],
)
def test_what_lasts_ends_in_a_sentence(
    fault: Fault, words: str, proxy: FaultyProxy, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEADLINE, "1")
    proxy.add(fault)
    started = time.monotonic()
    for operation in (
        lambda: storage.read("a"),
        lambda: storage.write("a", b"x"),
        lambda: storage.write("a", b"x", expect=ABSENT),
        lambda: storage.list(""),
    ):
        with pytest.raises(StorageError) as caught:
            operation()
        assert re.fullmatch(rf"s3://\S+: {words}", str(caught.value))
    assert time.monotonic() - started < 4 * 2.5


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (DENIED, "403 AccessDenied: Access Denied."),
        (
            EXPIRED,
            "400 ExpiredToken: The provided token has expired; renew the credentials and start again, "
            "what is done is kept",
        ),
    ],
    ids=["denied", "expired"],
)
def test_what_waiting_does_not_mend_is_said_at_once(
    fault: Fault, words: str, proxy: FaultyProxy, storage: Storage
) -> None:
    proxy.add(fault)
    started = time.monotonic()
    for operation in (lambda: storage.read("a"), lambda: storage.write("a", b"x"), lambda: storage.list("")):
        with pytest.raises(StorageError) as caught:
            operation()
        assert re.fullmatch(rf"s3://test-\d+/root(/a)?: {re.escape(words)}", str(caught.value))
    assert time.monotonic() - started < 1.5
    assert proxy.count() <= 6


def test_nobody_is_at_the_address(storage: Storage, proxy: FaultyProxy) -> None:
    proxy.stop()
    with pytest.raises(StorageError, match=r"can't be reached: .*refused \(tried for 3 s\)$"):
        storage.read("a")


def test_a_bucket_that_is_not_there_is_no_absent_object(proxy: FaultyProxy) -> None:
    storage = open_storage("s3://no-such-bucket/root")
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket/root/a: 404 NoSuchBucket: "):
        storage.read("a")
    with pytest.raises(StorageError, match="404 NoSuchBucket"):
        storage.list("")


def test_an_own_write_whose_answer_is_lost_is_a_success(
    proxy: FaultyProxy, storage: Storage, bucket: str, s3_server: S3Server
) -> None:
    for number in range(3):
        _, version = storage.read_versioned("a")
        proxy.add(LoseAnswer(), times=1, method="PUT")
        storage.write("a", f"version {number}".encode(), expect=version)
    assert contents(s3_server, bucket) == {"root/a": b"version 2"}
    assert proxy.count("PUT") == 6


def test_another_write_after_a_lost_answer_is_a_conflict(proxy: FaultyProxy, storage: Storage) -> None:
    storage.write("a", b"theirs")
    proxy.add(INTERNAL, times=1, method="PUT")
    with pytest.raises(WriteConflict):
        storage.write("a", b"ours", expect=ABSENT)
    assert storage.read("a") == b"theirs"


def test_two_writers_that_meet_in_the_server_are_sorted_out(proxy: FaultyProxy, storage: Storage) -> None:
    """S3's answer to a conditional write during another one of the same key, which may fail yet."""
    proxy.add(Answer(409, "ConditionalRequestConflict"), times=1, method="PUT")
    storage.write("a", b"ours", expect=ABSENT)
    assert storage.read("a") == b"ours"


def test_a_conflict_costs_no_second_request(proxy: FaultyProxy, storage: Storage) -> None:
    storage.write("a", b"theirs")
    with pytest.raises(WriteConflict):
        storage.write("a", b"theirs", expect=ABSENT)
    assert proxy.count() == 2


@pytest.mark.parametrize("answer", ["ignored", "refused"])
def test_stores_without_conditional_writes(
    answer: str, proxy: FaultyProxy, storage: Storage, bucket: str, s3_server: S3Server
) -> None:
    proxy.conditional_writes = answer  # type: ignore[assignment]
    storage.write("a", b"first", expect=ABSENT)
    storage.write("a", b"second", expect=storage.read_versioned("a")[1])
    assert contents(s3_server, bucket) == {"root/a": b"second"}
    if answer == "refused":
        with pytest.raises(WriteConflict):
            storage.write("a", b"third", expect=ABSENT)


def test_an_answer_of_another_version_is_asked_for_again(proxy: FaultyProxy, storage: Storage) -> None:
    data = os.urandom(1_000_000)
    storage.write("a", data)
    with storage.open("a") as file:
        num_before = proxy.count("GET")
        proxy.add(ChangeHeaders({"ETag": '"other"'}), times=1, method="GET")
        file.seek(500_000)
        assert file.read(10) == data[500_000:500_010]
    assert proxy.count("GET") == num_before + 2


def test_large_objects_go_in_parts_and_only_a_bad_part_again(
    proxy: FaultyProxy, storage: Storage, bucket: str, s3_server: S3Server
) -> None:
    data = os.urandom(40_000_000)
    proxy.add(SLOW_DOWN, times=1, query="partNumber=2")
    proxy.add(LoseAnswer(), times=1, query="partNumber=3")
    storage.write("large", data)
    assert contents(s3_server, bucket) == {"root/large": data}
    sent = [one.query.partition("&")[0] for one in proxy.requests("PUT")]
    assert sorted(sent) == ["partNumber=1", *["partNumber=2"] * 2, *["partNumber=3"] * 2]


def test_parts_of_an_upload_that_fails_are_removed(
    proxy: FaultyProxy, storage: Storage, bucket: str, s3_server: S3Server
) -> None:
    proxy.add(DENIED, query="partNumber=2")
    with pytest.raises(StorageError, match="403 AccessDenied"):
        storage.write("large", os.urandom(40_000_000))
    until = time.monotonic() + 10
    while not (aborted := proxy.requests("DELETE")) and time.monotonic() < until:
        time.sleep(0.05)
    assert [(one.query.partition("=")[0], one.status) for one in aborted] == [("uploadId", 204)]
    assert contents(s3_server, bucket) == {}


def test_a_listing_that_breaks_off_gives_everything_once(proxy: FaultyProxy, storage: Storage) -> None:
    keys = [f"{number:05d}" for number in range(1500)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: storage.write(key, b""), keys))
    proxy.add(CutAnswer(50_000), times=1, method="LIST", query="continuation-token=")
    proxy.add(SLOW_DOWN, times=2, method="LIST")
    assert [item.key for item in storage.list("")] == keys


def test_a_share_of_bad_requests_is_lived_with(
    proxy: FaultyProxy, storage: Storage, bucket: str, s3_server: S3Server
) -> None:
    proxy.add(SLOW_DOWN, share=0.3, seed=14)
    for number in range(60):
        storage.write(f"{number}", str(number).encode(), expect=ABSENT)
    proxy.clear()
    assert len(contents(s3_server, bucket)) == 60


def test_no_secret_and_no_answer_as_it_came_is_in_an_error(proxy: FaultyProxy, storage: Storage) -> None:
    proxy.add(DENIED)
    with pytest.raises(StorageError) as caught:
        storage.read("a")
    error: BaseException | None = caught.value
    texts = []
    while error is not None:
        texts.append(repr(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert not re.search(rf"{SECRET_KEY}|Debug source|<Code>|\n", " ".join(texts))
