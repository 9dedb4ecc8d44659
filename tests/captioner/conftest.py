"""A chat server on loopback that answers as it is told and remembers what it was asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from datasets_media import ROOT, TESTS
from loopback import LoopbackServer, QuietHandler


def reply(text: Any, finish_reason: str = "stop") -> bytes:
    """A chat completion as OpenAI's API reference shows it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1200, "completion_tokens": 34, "total_tokens": 1234}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


class ChatServer(LoopbackServer):
    """`answers` are (status, body) in order, the last one for good; `asked` are (path, headers, body)."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = [(200, reply("A caption."))]
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.missing_bytes = 0
        self.headers: dict[str, str] = {}
        self.echoes = False
        self.barrier: threading.Barrier | None = None
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        super().__init__(self._handler(), "/v1")

    def start_again(self, port: int) -> None:
        """Serve on a port that was freed by `stop`."""
        super().__init__(self._handler(), "/v1", port)

    def _handler(self) -> type[QuietHandler]:
        server = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, data = server.answer(self.path, dict(self.headers), body)
                self.send(status, data, missing_bytes=server.missing_bytes, **server.headers)

        return Handler

    def answer(self, path: str, headers: dict[str, str], body: Any) -> tuple[int, bytes]:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.asked.append((path, headers, body))
            said = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if self.barrier is not None:
            self.barrier.wait()
        with self._lock:
            self._now -= 1
        return (200, reply(body["messages"][0]["content"][-1]["text"])) if self.echoes else said


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ChatServer()
    yield server
    server.stop()


@pytest.fixture
def chat_reply() -> Any:
    return reply


ENGINE_ARGS = {
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_seqs": 16,
    "kv_cache_memory_bytes": 64 << 20,
}
"""vLLM's arguments for a tiny model on the CPU; by itself it would take all the memory there is."""


@pytest.fixture(scope="session")
def engine_args() -> dict[str, Any]:
    return ENGINE_ARGS


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python that has vLLM: this one, or that of the captioner's own environment."""
    python = Path(os.environ.get("CAPTION_PYTHON", ROOT / ".venv-caption/bin/python"))
    if find_spec("vllm") is not None:
        return Path(sys.executable)
    asks = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    if python.exists() and subprocess.run([python, "-c", asks], check=False).returncode == 0:
        return python
    reason = "vLLM is not here: `make caption-env` installs it"
    if os.environ.get("REQUIRE_VLLM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tiny_model(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision-language model of 0.4 million random weights."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run(
        [vllm_python, TESTS / "tiny_vlm.py", folder],
        check=True,
        capture_output=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    return folder
