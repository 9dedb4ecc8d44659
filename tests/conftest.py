"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import datasets_media as datasets
from buckets import S3Server
from faulty_proxy import FaultyProxy
from hub_stand_in import HubStandIn

_SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much `faults/test_chaos.py` kills."""
    parser.addoption("--kills", type=int, default=30, help="Kills at random moments, all sites together.")
    parser.addoption("--chaos-seed", type=int, help="Repeats the draws of an earlier session.")


def pytest_configure() -> None:
    """Where the tests run in the background, a shell may have them ignore Ctrl-C, and so what they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A kill and what follows from it have a minute."""
    limit_s = 600 + 60 * config.getoption("--kills")
    for item in items:
        if item.path.name == "test_chaos.py":
            item.add_marker(pytest.mark.timeout(limit_s))


def pytest_report_header(config: pytest.Config) -> str:
    return f"chaos seed: {_chaos_seed(config)}"


@pytest.fixture(autouse=True)
def _no_real_time() -> Iterator[None]:
    """A test that leaves this process a real-time one starves every test after it, and their processes."""
    yield
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        pytest.fail("the process was left real-time; `keeping_schedule` goes around encoders")


@pytest.fixture(autouse=True)
def _no_ray_left() -> Iterator[None]:
    """A process that stays with a Ray, or joins another test's, is ended with it, in the midst of a test."""
    before = _is_joined()
    yield
    if _is_joined() and not before:
        sys.modules["ray"].shutdown()
        pytest.fail("the process was left joined to a Ray")


def _is_joined() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _chaos_seed(config: pytest.Config) -> int:
    """The seed that was asked for, or one that is drawn once per session."""
    seed = config.getoption("--chaos-seed")
    return config.stash.setdefault(_SEED, random.randrange(10**6) if seed is None else seed)


@pytest.fixture(scope="session")
def chaos_seed(pytestconfig: pytest.Config) -> int:
    """From which kills are drawn."""
    return _chaos_seed(pytestconfig)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real media and expected values, where there is one."""
    folder = (datasets.ROOT / "../shared/data").resolve()
    if not folder.is_dir():
        pytest.skip("../shared/data is not here")
    return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dataset's folder; read-only."""
    return datasets.write_media(tmp_path_factory.mktemp("media") / "in")


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary file of single bytes."""
    return datasets.write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "bytes.tiktoken")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server for tests that leave it running; who stops it starts one of their own."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, which this process and those that it starts reach."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A stand-in of the Hub, without a token, which this process and those that it starts reach."""
    from huggingface_hub import constants

    from curation.storage.hub import place

    monkeypatch.setattr(place, "_PINNED", {})
    with HubStandIn() as stand_in:
        set_up = {"HF_ENDPOINT": stand_in.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
        for name, value in {**set_up, "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # The client reads its environment when it is imported, which may have been long ago.
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
        template = f"{stand_in.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf/token"))
        yield stand_in


@pytest.fixture
def proxy(bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A bad network between the S3 server and this process, or those that it starts."""
    with FaultyProxy(s3_server.port) as proxy:
        for name, value in proxy.environment.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo has run, as with `make demo`; read-only."""
    folder = tmp_path_factory.mktemp("project")
    datasets.curation("demo", "--fetch-only", cwd=folder)
    datasets.curation("run", "--config", datasets.ROOT / "configs/demo.yaml", cwd=folder)
    return folder
