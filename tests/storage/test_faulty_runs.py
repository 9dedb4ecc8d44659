"""Whole runs from bucket to bucket over a bad network: the same rows, or one sentence and exit code 3."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import buckets
from buckets import SECRET_KEY, S3Server
from curation.storage.retries import DEADLINE
from datasets_media import command, curation, environment, write_config, write_photo
from faulty_proxy import EXPIRED, SLOW_DOWN, FaultyProxy, Silence

pytestmark = pytest.mark.slow

NUM_PHOTOS = 12


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.port) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in proxy.environment.items():
            patch.setenv(name, value)
        patch.setenv(DEADLINE, "40")
        yield proxy


@pytest.fixture(scope="module")
def place(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket with photos below `in`; one of them is none."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(NUM_PHOTOS - 1):
        write_photo(folder / f"photo {seed}.jpg", seed)
    (folder / "text.jpg").write_text("this is no photo")
    url = s3_server.new_bucket()
    buckets.upload(s3_server, folder, f"{url}/in")
    return url


@pytest.fixture(scope="module")
def config(place: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {
        "name": "faulty",
        "input": [f"{place}/in"],
        "output": f"{place}/quiet",
        "images": {"filters": ["resolution", "color"], "resolution": {"min_width": 64, "min_height": 64}},
        "run": {"unit_images": 2, "workers": 2, "max_failed_fraction": 0.9, "report_samples": 0},
    }
    return write_config(tmp_path_factory.mktemp("config") / "c.yaml", data)


@pytest.fixture(scope="module")
def quiet(proxy: FaultyProxy, s3_server: S3Server, place: str, config: Path) -> list[dict[str, object]]:
    """What is measured where nothing goes wrong."""
    curation("run", "-c", config)
    rows = _rows(s3_server, f"{place}/quiet")
    assert len([row for row in rows if row["folder"] == "sources"]) == NUM_PHOTOS
    assert len([row for row in rows if "/color/" in str(row["folder"])]) == NUM_PHOTOS - 1
    return rows


@pytest.fixture(autouse=True)
def clear(proxy: FaultyProxy, quiet: object) -> Iterator[None]:
    yield
    proxy.clear()


def _rows(server: S3Server, output: str) -> list[dict[str, object]]:
    """All rows of the ledger, and the sources, but for how long they took."""
    found: list[dict[str, object]] = []
    for key, data in buckets.contents(server, output).items():
        if key.startswith(("ledger/", "sources/")):
            folder = key.rpartition("/")[0].removesuffix("/compact")
            table = pq.read_table(io.BytesIO(data))
            kept = [name for name in table.column_names if name != "seconds"]
            found += [{"folder": folder, **row} for row in _plain(table.select(kept))]
    return sorted(found, key=str)


def _plain(table: pa.Table) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


def _wait_until(is_so: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _start(config: Path, output: str, temp: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", "-c", config, "--output", output),
        env=environment() | {"RAY_TMPDIR": str(temp)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def temp() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # sockets have short names
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_throttled_throughout_and_away_for_a_while(
    proxy: FaultyProxy,
    s3_server: S3Server,
    place: str,
    config: Path,
    quiet: list[dict[str, object]],
    temp: Path,
) -> None:
    proxy.add(SLOW_DOWN, share=0.1, seed=5)
    run = _start(config, f"{place}/throttled", temp)
    _wait_until(lambda: proxy.count("PUT", "*/throttled/ledger/*"), run)
    back = proxy.away_for(4)
    said = run.communicate(timeout=240)[0]
    back.join()
    assert run.returncode == 0, said
    assert sum(one.status == 503 for one in proxy.requests()) > 5
    assert _rows(s3_server, f"{place}/throttled") == quiet
    assert not re.search(r"SlowDown|Traceback", said)


def test_credentials_that_expire_on_the_way_and_a_store_without_conditions(
    proxy: FaultyProxy,
    s3_server: S3Server,
    place: str,
    config: Path,
    quiet: list[dict[str, object]],
) -> None:
    output = f"{place}/expired"
    proxy.add(EXPIRED, method="PUT", key="*/expired/ledger/*")
    said = curation("run", "-c", config, "--output", output, code=3)
    (sentence,) = {line for line in said.splitlines() if "ExpiredToken" in line}
    assert re.search(
        r"s3://\S+/expired/ledger/\S+: 400 ExpiredToken: .* renew the credentials and start again", sentence
    )
    assert not re.search(r"Traceback|Debug source|<Code>", said)
    blamed = {row["uri"] for row in _rows(s3_server, output) if row["status"] == "failed"}
    assert blamed <= {f"{place}/in/text.jpg"}

    proxy.clear()
    proxy.conditional_writes = "ignored"
    said = curation("run", "-c", config, "--output", output)
    assert "knows no conditional writes: the lease alone keeps two runs apart" in said.replace("\n", " ")
    found = buckets.contents(s3_server, output)
    assert json.loads(found["run.json"])["conditional_writes"] is False
    assert _rows(s3_server, output) == quiet
    assert not any("/." in f"/{key}" for key in found)


def test_two_at_once_and_the_one_that_follows_a_killed_run(
    proxy: FaultyProxy,
    s3_server: S3Server,
    place: str,
    config: Path,
    quiet: list[dict[str, object]],
    temp: Path,
) -> None:
    output = f"{place}/twice"
    proxy.add(Silence(), method="PUT", key="*/twice/ledger/*")
    first = _start(config, output, temp)
    try:
        _wait_until(lambda: proxy.count("PUT", "*/twice/sources/*"), first)
        said = curation("run", "-c", config, "--output", output, code=3).replace("\n", " ")
        assert re.search(
            rf"{output} is in use by a run of \S+ on {re.escape(socket.gethostname())} "
            rf"\(process {first.pid}, since [-\d]+ [:\d]+ UTC, last heartbeat [-\d]+ [:\d]+ UTC\)",
            said,
        )
        logs = [path for path in temp.rglob("*") if path.is_file()]
        assert len(logs) > 5
        assert [path for path in logs if SECRET_KEY.encode() in path.read_bytes()] == []
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    proxy.clear()
    said = curation("run", "-c", config, "--output", output)
    assert "took over from a run of" in said.replace("\n", " ")
    assert _rows(s3_server, output) == quiet
    everything = b"".join(buckets.contents(s3_server, output).values())
    assert SECRET_KEY.encode() not in everything + said.encode()
