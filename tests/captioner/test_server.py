"""A supervised server: started, watched, started again, stopped. A small HTTP server is in vLLM's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from curation.captioner.server import ModelServer, ServeConfig, server_command
from curation.captioner.settings import CaptionConfig
from curation.errors import EnvironmentFault

SERVER = """
import http.server, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = f"{os.getpid()} {child.pid}".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data))); self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""Answers everything with its own process id and that of a child, which stands for vLLM's engine."""


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def started(max_restarts: int = 2) -> ModelServer:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port)]
    server = ModelServer(command, os.environ, f"http://127.0.0.1:{port}", max_restarts)
    server.start(30)
    return server


@pytest.fixture
def server() -> Iterator[ModelServer]:
    server = started()
    yield server
    server.stop()


def pids(url: str) -> list[int]:
    return [int(pid) for pid in httpx2.get(url, trust_env=False).text.split()]


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def eventually(check: Callable[[], Any], seconds: float = 30) -> Any:
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            found = check()
        except httpx2.TransportError:
            found = None
        if found or time.monotonic() > give_up_at:
            return found
        time.sleep(0.05)


def test_stop_ends_the_server_and_its_children(server: ModelServer) -> None:
    running = pids(server.url)
    assert all(lives(pid) for pid in running)
    server.stop()
    assert not any(lives(pid) for pid in running)


def test_server_that_dies_is_started_again_where_it_was_and_its_children_are_ended(
    server: ModelServer,
) -> None:
    dead, orphan = pids(server.url)
    os.kill(dead, signal.SIGKILL)
    again, _ = eventually(lambda: [pid for pid in pids(server.url) if pid != dead])
    assert again != dead
    assert not lives(orphan)


def test_server_that_keeps_dying_is_left_alone() -> None:
    server = started(max_restarts=1)
    try:
        for _ in range(2):
            dead, _ = eventually(lambda: pids(server.url))
            os.kill(dead, signal.SIGKILL)
            eventually(lambda: not lives(dead))  # noqa: B023  called at once
        time.sleep(2)
        with pytest.raises(httpx2.ConnectError):
            pids(server.url)
    finally:
        server.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_does_not_outlive_whoever_started_it(number: int) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", "import test_server, time; print(test_server.started().url); time.sleep(600)"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert starter.stdout is not None
    running = pids(starter.stdout.readline().strip())
    starter.send_signal(number)
    starter.communicate()
    assert eventually(lambda: not any(lives(pid) for pid in running))


def test_server_that_does_not_start_shows_why() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model: tiny')"]
    server = ModelServer(command, os.environ, f"http://127.0.0.1:{free_port()}", 3)
    with pytest.raises(EnvironmentFault, match="ended while it started:\nno such model: tiny"):
        server.start(30)
    server.stop()


def test_server_that_takes_too_long_is_stopped() -> None:
    command = [sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(600)"]
    server = ModelServer(command, os.environ, f"http://127.0.0.1:{free_port()}", 3)
    with pytest.raises(EnvironmentFault, match="did not answer within 1 s:\nloading"):
        server.start(1)
    server.stop()


def test_python_that_is_missing_is_named() -> None:
    server = ModelServer(["/no/such/python"], os.environ, f"http://127.0.0.1:{free_port()}", 3)
    with pytest.raises(EnvironmentFault, match="/no/such/python"):
        server.start(30)
    server.stop()


def test_arguments_become_flags() -> None:
    config = CaptionConfig(
        engine="serve", model="org/vlm", frames_as="video", serve={"python": "/env/python"}
    )
    arguments = {
        "model": "/weights",
        "max_num_seqs": 8,
        "enforce_eager": True,
        "limit_mm_per_prompt": {"image": 1},
    }
    command = server_command(
        config, config.own(ServeConfig), {**arguments, "enable_prefix_caching": False}, "127.0.0.1", 8123
    )
    assert command[:5] == ["/env/python", "-m", "vllm.entrypoints.cli.main", "serve", "/weights"]
    flags = command[5:]
    assert set(flags) >= {
        "--served-model-name=org/vlm",
        "--max-num-seqs=8",
        "--host=127.0.0.1",
        "--port=8123",
        '--limit-mm-per-prompt={"image": 1}',
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--trust-request-mm-kwargs",
    }


def test_value_is_never_taken_for_an_argument() -> None:
    config = CaptionConfig(engine="serve", model="org/vlm", dtype="--trust-remote-code")
    command = server_command(config, ServeConfig(), {"model": "/weights", "dtype": config.dtype}, "::1", 8123)
    assert "--dtype=--trust-remote-code" in command


@pytest.mark.slow
def test_server_does_not_outlive_an_actor_that_ray_kills() -> None:
    """Ray kills the direct children of an actor too, so these can no longer end what they started."""
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        actor = ray.remote(num_cpus=1)(Starter).remote()
        running = pids(ray.get(actor.url.remote(), timeout=60))
        assert len(running) == 2
        ray.kill(actor)
        assert eventually(lambda: not any(lives(pid) for pid in running))
    finally:
        ray.shutdown()


class Starter:
    def __init__(self) -> None:
        self._server = started()

    def url(self) -> str:
        return self._server.url
