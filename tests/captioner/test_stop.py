"""A run ends its caption server, however it ends itself, and does without a server's process that is lost.

A small HTTP server is in vLLM's place.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.cli.stopping import LIMIT_S
from datasets_media import command, config_data, curation, environment, write_config

pytestmark = pytest.mark.slow

SERVER = f"""#!{sys.executable}
import http.server, json, os, pathlib, signal, sys, time
place = pathlib.Path(os.environ["SERVER_PLACE"])
if (place / "busy").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def do_POST(self):
        (place / "asked").touch()
        if (place / "forbid").exists():
            self.send_response(403); self.send_header("Content-Length", "0"); self.end_headers()
        elif (place / "answer").exists():
            message = {{"content": "A red ball rolls slowly over the wooden floor of a quiet room."}}
            choice = {{"message": message, "finish_reason": "stop"}}
            body = json.dumps({{"choices": [choice]}}).encode()
            self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
            self.wfile.write(body)
        else:
            time.sleep(600)
    def log_message(self, *args): pass
(place / "pid").write_text(str(os.getpid()))
port = next(int(arg.partition("=")[2]) for arg in sys.argv if arg.startswith("--port="))
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
"""Healthy, but answers questions only if there is a file `answer`, and refuses them if there is `forbid`.
Ends on SIGTERM, unless there is a file `busy`."""
END_S = 15.0
"""How long a run may take to end: 5 s on a machine that has nothing else to do; tests share theirs."""


@pytest.fixture
def config(media: Path, tmp_path: Path) -> Path:
    server = tmp_path / "python"
    server.write_text(SERVER)
    server.chmod(0o755)
    (tmp_path / "model").write_text("weights")
    captions = {
        "engine": "serve",
        "model": str(tmp_path / "model"),
        "serve": {"python": str(server), "environment": {"SERVER_PLACE": str(tmp_path)}},
    }
    data = config_data(media, tmp_path / "out", tmp_path / "none", captions=captions)
    del data["tokens"], data["shards"], data["videos"]
    return write_config(tmp_path / "c.yaml", data)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def asked(config: Path, tmp_path: Path) -> subprocess.Popen[Any]:
    """A run whose caption server has been asked for a caption."""
    process = subprocess.Popen(
        command("run", "-c", config),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    wait_for(tmp_path / "asked", process)
    assert lives(int((tmp_path / "pid").read_text()))
    return process


def assert_server_ends(tmp_path: Path) -> None:
    pid = int((tmp_path / "pid").read_text())
    give_up_at = time.monotonic() + 60
    while lives(pid) and time.monotonic() < give_up_at:
        time.sleep(0.1)
    assert not lives(pid)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_server_ends_with_the_run(config: Path, tmp_path: Path, number: int, code: int) -> None:
    process = asked(config, tmp_path)
    os.kill(process.pid, number)
    process.communicate(timeout=END_S)
    assert process.returncode == code
    assert_server_ends(tmp_path)


def test_run_does_not_wait_for_a_server_that_takes_its_time(config: Path, tmp_path: Path) -> None:
    """Beside a server that ends in order only after its grace."""
    (tmp_path / "busy").touch()
    process = asked(config, tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=END_S)
    assert process.returncode == 143
    assert said.decode().count("the same command goes on from there") == 1
    assert_server_ends(tmp_path)


def test_second_ctrl_c_ends_the_run_at_once(config: Path, tmp_path: Path) -> None:
    (tmp_path / "busy").touch()
    process = asked(config, tmp_path)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    again_at = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=END_S)
    assert time.monotonic() - again_at < LIMIT_S / 2
    assert process.returncode == 130
    assert said.decode().count("the same command goes on from there") == 1
    assert_server_ends(tmp_path)


def test_server_ends_with_a_run_that_fails(config: Path, tmp_path: Path) -> None:
    (tmp_path / "forbid").touch()
    done = subprocess.run(
        command("run", "-c", config), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "the caption server refuses everything: 403" in done.stderr
    assert not lives(int((tmp_path / "pid").read_text()))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_lost_actor_takes_its_server_along_and_the_run_goes_on_with_a_new_one(
    config: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command("run", "-c", config),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(tmp_path / "asked", process)
    first = int((tmp_path / "pid").read_text())
    actor = parent(parent(parent(first)))  # beyond the two processes of the supervisor
    assert "ServiceActor" in Path(f"/proc/{actor}/cmdline").read_text()
    (tmp_path / "answer").touch()
    os.kill(actor, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    second = int((tmp_path / "pid").read_text())
    assert second != first
    assert not lives(first)
    assert not lives(second)
    curation("table", "-c", config, "--to", tmp_path / "table.parquet")
    rows = pq.read_table(tmp_path / "table.parquet").to_pylist()
    captions = [row["caption"] for row in rows if row["caption"]]
    assert len(captions) == 3  # the images
    assert all(caption.startswith("A red ball") for caption in captions)


def test_python_that_the_node_lacks_is_named(config: Path, tmp_path: Path) -> None:
    (tmp_path / "python").unlink()
    done = subprocess.run(
        command("run", "-c", config), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert f"there is no {tmp_path / 'python'} on {socket.gethostname()}" in " ".join(done.stderr.split())
