"""A chat server on loopback that answers as it is told and remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

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
        server = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append((self.path, dict(self.headers), json.loads(body)))
                status, data = server.answers[min(len(server.asked), len(server.answers)) - 1]
                self.send(status, data, missing_bytes=server.missing_bytes)

        super().__init__(Handler, "/v1")


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ChatServer()
    yield server
    server.stop()


@pytest.fixture
def chat_reply() -> Any:
    return reply
