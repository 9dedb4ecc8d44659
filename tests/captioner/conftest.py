"""A chat server on loopback that answers as it is told and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


def reply(text: Any, finish_reason: str = "stop") -> bytes:
    """A chat completion as OpenAI's API reference shows it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1200, "completion_tokens": 34, "total_tokens": 1234}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


class ChatServer:
    """`answers` are (status, body) in order, the last one for good; `asked` are (path, headers, body)."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = [(200, reply("A caption."))]
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.missing_bytes = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append((self.path, dict(self.headers), json.loads(body)))
                status, data = server.answers[min(len(server.asked), len(server.answers)) - 1]
                self.send_response(status)
                self.send_header("Content-Length", str(len(data) + server.missing_bytes))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Stay quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ChatServer()
    yield server
    server.stop()


@pytest.fixture
def chat_reply() -> Any:
    return reply
