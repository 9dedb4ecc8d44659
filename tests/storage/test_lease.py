"""Leases on a real S3 server: one holder at a time, dead ones are followed, and those that lost it stop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

import pytest

from buckets import S3Server, contents
from curation.errors import StorageError
from curation.storage import open_storage
from curation.storage.buckets import lease as leases
from curation.storage.buckets.client import BucketClient
from curation.storage.buckets.connection import place_of
from curation.storage.buckets.lease import Holder, Lease, check_lease
from datasets_media import environment
from faulty_proxy import ChangeHeaders, FaultyProxy, LoseAnswer

HEARTBEAT_S = 0.5
STALE_S = 3.0
Take = Callable[..., AbstractContextManager[Lease]]


@pytest.fixture
def root(bucket: str, proxy: FaultyProxy) -> str:
    return f"{bucket}/out"


@pytest.fixture
def client(root: str) -> BucketClient:
    return BucketClient(place_of(root))


@pytest.fixture
def take(root: str, client: BucketClient) -> Take:
    def held(said: list[str] | None = None) -> AbstractContextManager[Lease]:
        say = None if said is None else said.append
        return leases.held(client, "out/.lease", root, say, heartbeat_s=HEARTBEAT_S, stale_s=STALE_S)

    return held


def _elsewhere(**changes: str | int) -> Holder:
    """A holder that nothing is known of from here."""
    holder = replace(Holder.of_this_process(), host="node-7", machine="another", pid=4711)
    return replace(holder, **changes)  # type: ignore[arg-type]


def test_is_there_while_held_and_gone_after(take: Take, bucket: str, s3_server: S3Server) -> None:
    with take():
        (found,) = contents(s3_server, bucket).items()
        assert found[0] == "out/.lease"
        held = json.loads(found[1])
        assert (held["host"], held["pid"]) == (socket.gethostname(), os.getpid())
        assert open_storage(f"{bucket}/out").list("") == []
    assert contents(s3_server, bucket) == {}


def test_a_second_run_here_is_refused_at_once(take: Take) -> None:
    with take():
        started = time.monotonic()
        with pytest.raises(StorageError) as caught, take():
            pass
        assert time.monotonic() - started < 1
    words = str(caught.value)
    assert f"on {socket.gethostname()} (process {os.getpid()}, since 2" in words
    assert ", last heartbeat 2" in words
    with take():
        pass


def test_a_living_run_elsewhere_is_told_by_its_heartbeat(take: Take, client: BucketClient) -> None:
    holder, ended = _elsewhere(), threading.Event()
    version = client.put("out/.lease", holder.data)

    def live() -> None:
        nonlocal holder, version
        while not ended.wait(HEARTBEAT_S):
            holder = holder.after_heartbeat()
            version = client.put("out/.lease", holder.data, version)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with (
            pytest.raises(StorageError, match=r"out is in use by a run of .* on node-7 \(process 4711, "),
            take(),
        ):
            pass
    finally:
        ended.set()
        thread.join()


def test_a_dead_run_elsewhere_is_followed_after_a_while(take: Take, client: BucketClient) -> None:
    client.put("out/.lease", _elsewhere().data)
    said: list[str] = []
    started = time.monotonic()
    with take(said) as lease:
        assert time.monotonic() - started >= STALE_S
        lease.check()
    assert "held by a run of" in said[0]
    assert "took over from a run of" in said[1]
    assert "node-7 (process 4711" in said[1]


def test_a_dead_run_of_this_machine_is_followed_at_once(take: Take, client: BucketClient) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    client.put("out/.lease", replace(Holder.of_this_process(), pid=ended.pid, process_start="1").data)
    started = time.monotonic()
    with take():
        assert time.monotonic() - started < STALE_S / 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(
    number: signal.Signals, root: str, bucket: str, s3_server: S3Server
) -> None:
    program = (
        "import sys, time\n"
        "from curation.cli.stopping import StopSignals\n"
        "from curation.storage import open_storage\n"
        "with StopSignals() as stop, open_storage(sys.argv[1]).exclusive():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(stop.exit_code)\n"
    )
    command = [sys.executable, "-c", program, root]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "held\n"
        assert list(contents(s3_server, bucket)) == ["out/.lease"]
        run.send_signal(number)
        assert run.wait(20) == 128 + number
    assert contents(s3_server, bucket) == {}


def test_a_lease_that_cannot_be_read_goes_stale_as_well(take: Take, client: BucketClient) -> None:
    client.put("out/.lease", b"{}")
    said: list[str] = []
    with take(said):
        pass
    assert "took over from a run of someone on an unknown host" in said[1]


def test_of_many_at_once_one_gets_it(take: Take) -> None:
    results: list[str] = []
    begin, end = threading.Barrier(6), threading.Barrier(6)

    def contend() -> None:
        begin.wait()
        with ExitStack() as stack:
            try:
                stack.enter_context(take())
                results.append("held")
            except StorageError:
                results.append("refused")
            end.wait()

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["held", *["refused"] * 5]


def test_who_lost_it_stops_before_the_next_write(
    take: Take, client: BucketClient, root: str, bucket: str, s3_server: S3Server
) -> None:
    storage, theirs = open_storage(root), _elsewhere()
    with ExitStack() as stack:
        stack.enter_context(take())
        storage.write("run.json", b"{}")
        client.put("out/.lease", theirs.data)
        time.sleep(3 * HEARTBEAT_S)
        with pytest.raises(StorageError, match=r"stopped, since a run of .* on node-7 .* has taken it over"):
            storage.write("run.json", b"other")
        with pytest.raises(StorageError, match="node-7"):
            storage.delete("run.json")
        with pytest.raises(StorageError, match="node-7"):
            check_lease(f"{root}/report/index.html")
        with pytest.raises(StorageError, match="node-7"):
            stack.close()
    assert contents(s3_server, bucket) == {"out/run.json": b"{}", "out/.lease": theirs.data}


def test_an_operator_may_end_a_run_by_removing_its_lease(take: Take, client: BucketClient, root: str) -> None:
    with ExitStack() as stack:
        stack.enter_context(take())
        client.delete("out/.lease")
        time.sleep(3 * HEARTBEAT_S)
        with pytest.raises(StorageError, match="stopped, since its lease was removed"):
            open_storage(root).write("run.json", b"{}")
        with pytest.raises(StorageError, match="its lease was removed"):
            stack.close()


def test_a_run_that_slept_looks_before_it_writes(
    take: Take, client: BucketClient, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "_beat", lambda self: None)  # as if the process had been stopped
    storage = open_storage(root)
    with ExitStack() as stack:
        stack.enter_context(take())
        time.sleep(STALE_S / 2 + 0.1)
        client.put("out/.lease", _elsewhere().data)
        with pytest.raises(StorageError, match="node-7"):
            storage.write("run.json", b"{}")
        with pytest.raises(StorageError, match="node-7"):
            stack.close()
    assert storage.read("run.json") is None


def test_a_bucket_that_is_away_for_a_while_is_no_loss(take: Take, proxy: FaultyProxy, root: str) -> None:
    said: list[str] = []
    with take(said) as lease:
        with proxy.away():
            time.sleep(STALE_S)
        time.sleep(4 * HEARTBEAT_S)
        lease.check()
        away, again = said
        assert re.search("can't be reached.*; trying on$", away)
        assert again == f"{root} answers again"
        proxy.add(LoseAnswer(), times=1, method="PUT")
        time.sleep(2 * HEARTBEAT_S)
        proxy.add(ChangeHeaders(), times=1, method="PUT")
        time.sleep(2 * HEARTBEAT_S)
        assert sum(one.fault is not None for one in proxy.requests()) == 2
        lease.check()


@pytest.mark.parametrize("answer", ["ignored", "refused"])
def test_without_conditional_writes_two_that_meet_are_told_apart(
    answer: str, proxy: FaultyProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.5)
    proxy.conditional_writes = answer  # type: ignore[assignment]
    first, second = open_storage(f"{bucket}/out"), open_storage(f"{bucket}/out")
    with first.exclusive():
        assert not first.compares_versions
        with pytest.raises(StorageError, match="is in use by"), second.exclusive():
            pass
        first.write("a", b"x")
    with second.exclusive():
        pass
    assert [item.key for item in first.list("")] == ["a"]
