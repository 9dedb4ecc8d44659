"""The proxy does to requests what tests rely on, as obstore and Arrow's client see it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import obstore
import pytest
from obstore.exceptions import PreconditionError
from obstore.store import S3Store

from buckets import S3Server, contents
from faulty_proxy import DENIED, SLOW_DOWN, CutAnswer, Delay, FaultyProxy, LoseAnswer, Silence


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultyProxy, bucket: str) -> Any:
    """A client that tries everything once and waits for half a second."""
    return S3Store(
        bucket.removeprefix("s3://"),
        endpoint=proxy.endpoint,
        client_options={"allow_http": True, "timeout": "500ms"},
        retry_config={"max_retries": 0},
    )


def test_forwards_and_counts(proxy: FaultyProxy, store: Any, bucket: str, s3_server: S3Server) -> None:
    data = bytes(range(256)) * 1000
    obstore.put(store, "a b#%.bin", data)
    assert contents(s3_server, bucket) == {"a b#%.bin": data}
    assert obstore.get(store, "a b#%.bin").bytes() == data
    assert [item["path"] for item in obstore.list(store).collect()] == ["a b#%.bin"]
    assert proxy.request_bytes("PUT", "*/a b#%.bin") == proxy.answer_bytes("GET", "*/a b#%.bin") == 256_000
    assert (proxy.count("PUT"), proxy.count("GET"), proxy.count("LIST"), proxy.count("HEAD")) == (1, 1, 1, 0)
    with pytest.raises(PreconditionError):
        obstore.put(store, "a b#%.bin", b"x", mode={"e_tag": "old"})


def test_faults_meet_the_requests_that_match(proxy: FaultyProxy, store: Any) -> None:
    obstore.put(store, "a", b"12345")
    proxy.add(SLOW_DOWN, times=1, method="GET", key="*/a")
    proxy.add(DENIED, times=1, method="GET")
    with pytest.raises(obstore.exceptions.BaseError, match="SlowDown"):
        obstore.get(store, "a")
    with pytest.raises(obstore.exceptions.PermissionDeniedError, match="AccessDenied"):
        obstore.get(store, "a")
    assert obstore.get(store, "a").bytes() == b"12345"
    proxy.add(SLOW_DOWN, share=0.5, seed=1)
    statuses = [_status(store) for _ in range(40)]
    assert 10 < statuses.count(503) < 30


def _status(store: Any) -> int:
    try:
        obstore.head(store, "a")
    except obstore.exceptions.BaseError:
        return 503
    return 200


def test_delays_and_cuts(proxy: FaultyProxy, store: Any, bucket: str, s3_server: S3Server) -> None:
    obstore.put(store, "a", b"12345")
    proxy.add(Delay(0.2), times=1)
    started = time.monotonic()
    obstore.head(store, "a")
    assert 0.2 <= time.monotonic() - started < 0.5
    proxy.add(Silence(), times=1)
    with pytest.raises(obstore.exceptions.BaseError):
        obstore.head(store, "a")
    proxy.add(CutAnswer(2), method="GET", times=1)
    with pytest.raises(Exception, match=r"(?i)body|decod|incomplete"):
        obstore.get(store, "a").bytes()
    proxy.add(LoseAnswer(), method="PUT", times=1)
    with pytest.raises(obstore.exceptions.BaseError):
        obstore.put(store, "b", b"there")
    assert contents(s3_server, bucket) == {"a": b"12345", "b": b"there"}


def test_away_and_back(proxy: FaultyProxy, store: Any) -> None:
    obstore.put(store, "a", b"12345")
    with proxy.away(), pytest.raises(obstore.exceptions.BaseError):
        obstore.get(store, "a")
    assert obstore.get(store, "a").bytes() == b"12345"


def test_as_a_store_without_conditional_writes(proxy: FaultyProxy, store: Any) -> None:
    obstore.put(store, "a", b"12345")
    proxy.conditional_writes = "ignored"
    obstore.put(store, "a", b"67890", mode="create")
    obstore.put(store, "a", b"abcde", mode={"e_tag": "old"})
    assert obstore.get(store, "a").bytes() == b"abcde"
    proxy.conditional_writes = "refused"
    with pytest.raises(Exception, match=r"NotImplemented|not implemented"):
        obstore.put(store, "b", b"12345", mode="create")
