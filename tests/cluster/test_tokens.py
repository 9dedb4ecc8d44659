"""Connecting to clusters that are there but can't be used as asked: each ends with one sentence, and soon.

Every cluster is real, and what it prints by itself would be lines of gRPC, minutes later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from curation.errors import ConfigError
from curation.execution.cluster.joining.address import ANSWER_S, check_head
from datasets_media import command, environment, write_config, write_photo
from heads import Head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TOKEN = "-".join(["token", "of", "the", "tests"])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "in").mkdir()
    write_photo(folder / "in/a.jpg", 1)
    data = {
        "name": "tokens",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "images": {"filters": ["color"]},
    }
    return write_config(folder / "c.yaml", data)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Head]:
    """A cluster that wants a token."""
    with Head(token=TOKEN) as head:
        yield head


@pytest.fixture(scope="module")
def open_head() -> Iterator[Head]:
    """A cluster that wants none, and has a dashboard."""
    with Head(dashboard=True) as head:
        yield head


def run(config: Path, address: str, variables: Mapping[str, str], output: Path) -> tuple[int, str]:
    """Exit code of a run with these variables instead of all that Ray knows, and what it said."""
    clean = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    done = subprocess.run(
        command("run", "-c", config, "--address", address, "--output", output),
        capture_output=True,
        text=True,
        env=clean | dict(variables),
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def refusal(said: str) -> str:
    """The only line: what is wrong, said before anything is listed."""
    (line,) = said.strip().splitlines()
    return line


def test_token_opens_a_cluster(config: Path, guarded: Head, tmp_path: Path) -> None:
    code, said = run(config, guarded.address, guarded.environment, tmp_path)
    assert code == 0, said
    assert (tmp_path / "run.json").exists()
    code, said = run(
        config,
        guarded.address,
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
        tmp_path / "again",
    )
    assert code == 0, said


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to"),
        ({}, "wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to"),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another-token-of-the-tests"},
            "does not take the token of RAY_AUTH_TOKEN; name the file",
        ),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/none"}, "/none: No such file or directory;"),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": os.devnull},
            "RAY_AUTH_TOKEN_PATH=/dev/null is empty",
        ),
    ],
)
def test_wrong_token_is_said_in_one_sentence(
    config: Path, guarded: Head, tmp_path: Path, variables: dict[str, str], sentence: str
) -> None:
    code, said = run(config, guarded.address, variables | {"HOME": str(tmp_path)}, tmp_path / "out")
    assert code == 3, said
    assert sentence in refusal(said)
    assert TOKEN not in said
    assert "another-token" not in said


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (
            "http://10.0.0.1:8265",
            "is a dashboard, to which jobs are given: ray job submit --address http://10",
        ),
        ("ray://10.0.0.1:10001", "a run cannot use Ray Client"),
        ("head", "head is no address of a Ray cluster; write the HOST:PORT"),
        ("head:port", "head:port is no address of a Ray cluster; write the HOST:PORT"),
    ],
)
def test_address_of_another_kind_is_refused_by_its_form(address: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_head(address)


def test_port_of_something_else_is_said_in_one_sentence(
    config: Path, open_head: Head, tmp_path: Path
) -> None:
    dashboard = open_head.dashboard.removeprefix("http://")
    cases = {
        dashboard: f"a web server listens at {dashboard}: if that is the dashboard",
        open_head.client_address: "is not the head of a Ray cluster",
    }
    for address, sentence in cases.items():
        code, said = run(config, address, open_head.environment, tmp_path)
        assert code == 3, said
        assert sentence in refusal(said)


def test_other_versions_are_said_in_one_sentence(config: Path, open_head: Head, tmp_path: Path) -> None:
    """The head is made to say that it runs others: it has only the ones that are installed here."""
    others = {"ray_version": "2.9.3", "python_version": "3.10.4", "ray_init_cluster": False}
    before = said_by_head(open_head, others)
    try:
        code, said = run(config, open_head.address, open_head.environment, tmp_path)
    finally:
        said_by_head(open_head, before)
    assert code == 3, said
    assert "runs Ray 2.9.3 on Python 3.10.4, and this is Ray" in refusal(said)


def said_by_head(head: Head, versions: Mapping[str, object]) -> dict[str, object]:
    """Let a head say these versions; those that it said before."""
    ask = (
        "import sys; from ray._raylet import GcsClient; head = GcsClient(address=sys.argv[1]); "
        "print(head.internal_kv_get(b'CLUSTER_METADATA', b'cluster').decode()); "
        "head.internal_kv_put(b'CLUSTER_METADATA', sys.argv[2].encode(), True, b'cluster')"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask, head.address, json.dumps(versions)],
        env=os.environ | head.environment,
        check=True,
        capture_output=True,
        text=True,
    )
    before: dict[str, object] = json.loads(done.stdout)
    return before


def test_head_that_is_silent_is_not_waited_for_long(config: Path, open_head: Head, tmp_path: Path) -> None:
    open_head.signal("gcs_server", signal.SIGSTOP)
    started = time.monotonic()
    try:
        code, said = run(config, open_head.address, open_head.environment, tmp_path)
    finally:
        open_head.signal("gcs_server", signal.SIGCONT)
    assert code == 3, said
    assert f"nobody answers at {open_head.address} as the head of a Ray cluster" in refusal(said)
    assert time.monotonic() - started < ANSWER_S + 25
