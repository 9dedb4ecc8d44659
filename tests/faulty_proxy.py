"""A bad network in front of a real S3 server: a reverse proxy on loopback whose faults a test programs.

    with FaultyProxy(s3_server.port) as proxy:
        for name, value in proxy.environment.items():
            monkeypatch.setenv(name, value)                     # runs reach the server through the proxy
        proxy.add(SLOW_DOWN, times=3, method="PUT", key="*/ledger/*")   # the next three that match
        proxy.add(SLOW_DOWN, share=0.2, seed=7)                 # and a fifth of all others
        ...
        proxy.clear()                                           # no faults any more
        assert proxy.count("GET", "*/in/a.jpg") == 1            # answers with 206, 403, ... count as well
        assert proxy.answer_bytes("GET", "*/in/*") < 10_000
        with proxy.away():                                      # connections are refused and cut
            ...

A key here begins with the bucket: `test-0001/in/a.jpg`; patterns are those of fnmatch, where `*` crosses
slashes. Listing a bucket is the method LIST. The first fault that matches a request is the one that it meets.
The proxy forwards what it gets as it was signed, Host header included: clients sign for the proxy's address.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import random
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import unquote
from xml.sax.saxutils import escape

from buckets import SECRET_KEY, environment_of

CHUNK_BYTES = 1 << 16
_CONDITIONS = ("if-match", "if-none-match")
_OF_A_CONNECTION = ("connection", "expect", "transfer-encoding", "content-length", "keep-alive")


@dataclass(frozen=True)
class Answer:
    """The server is not asked: an error is answered, in S3's words."""

    status: int
    code: str
    message: str = "as the test wanted it"


SLOW_DOWN = Answer(503, "SlowDown", "Please reduce your request rate.")
TOO_MANY = Answer(429, "TooManyRequests", "Please try again later.")
INTERNAL = Answer(500, "InternalError", "We encountered an internal error. Please try again.")
DENIED = Answer(403, "AccessDenied", "Access Denied.")
EXPIRED = Answer(400, "ExpiredToken", "The provided token has expired.")
NOT_IMPLEMENTED = Answer(501, "NotImplemented", "A header that you provided implies what is not implemented.")


@dataclass(frozen=True)
class Delay:
    """The request is carried out, but so many seconds later."""

    seconds: float


@dataclass(frozen=True)
class Silence:
    """The request is taken and never answered: the client runs into its time-out."""


@dataclass(frozen=True)
class CutAnswer:
    """The answer's body breaks off after so many bytes."""

    after_bytes: int


@dataclass(frozen=True)
class CutRequest:
    """The connection breaks off after so many bytes of the request's body; the server never sees it."""

    after_bytes: int = 0


@dataclass(frozen=True)
class LoseAnswer:
    """The server carries the request out, but its answer is lost."""


@dataclass(frozen=True)
class ChangeHeaders:
    """The answer has other headers than the server gave it, such as another ETag."""

    headers: Mapping[str, str] = field(default_factory=lambda: {"ETag": '"00000000000000000000000000000000"'})


Fault = Answer | Delay | Silence | CutAnswer | CutRequest | LoseAnswer | ChangeHeaders


@dataclass
class Request:
    """One request as the proxy sees it; while it is being dealt with, what has become of it so far.

    Attributes:
        status: What was answered; None where nothing was.
        request_bytes: Of the body, as far as it was read.
        answer_bytes: Of the body, as far as it was sent.
        fault: The fault that the request met.
    """

    method: str
    key: str
    query: str
    headers: Mapping[str, str]
    fault: Fault | None
    at_s: float
    status: int | None = None
    request_bytes: int = 0
    answer_bytes: int = 0


@dataclass
class _Rule:
    fault: Fault
    times: int | None
    share: float
    method: str | None
    key: str
    query: str
    chance: random.Random

    def applies(self, method: str, key: str, query: str) -> bool:
        if self.times == 0 or self.method not in (None, method):
            return False
        if not (fnmatchcase(key, self.key) and self.query in query and self.chance.random() < self.share):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class FaultyProxy:
    """Stands between S3's clients and the server at `port`, from `with` or `start` to `stop`.

    Attributes:
        conditional_writes: What becomes of If-Match and If-None-Match of writes: "honored" by the server,
            "ignored" (taken out, as by a store that does not know them), or "refused" (501 NotImplemented).
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.conditional_writes: Literal["honored", "ignored", "refused"] = "honored"
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._requests: list[Request] = []
        self._open: set[socket.socket] = set()
        self._http: _Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a run reaches the server through this proxy."""
        return environment_of(self.endpoint)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after a stop, at the same port as before."""
        self._http = _Server(("127.0.0.1", self._port), _Handler, proxy=self)
        self._port = self._http.server_port
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()
            self._http = None
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Be away as long as the context lasts."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def away_for(self, seconds: float) -> threading.Thread:
        """Be away from now on for so long; the thread ends when the proxy is back."""
        self.stop()

        def come_back() -> None:
            time.sleep(seconds)
            self.start()

        thread = threading.Thread(target=come_back)
        thread.start()
        return thread

    def add(
        self,
        fault: Fault,
        *,
        times: int | None = None,
        share: float = 1.0,
        seed: int = 0,
        method: str | None = None,
        key: str = "*",
        query: str = "",
    ) -> None:
        """Let requests meet a fault: the next `times` that match (None: all), or a random `share` of them.

        `query` is a part of the query string, such as "partNumber=".
        """
        with self._lock:
            self._rules.append(_Rule(fault, times, share, method, key, query, random.Random(seed)))

    def clear(self) -> None:
        """Take back all faults, and forget the requests so far."""
        with self._lock:
            self._rules.clear()
            self._requests.clear()
        self.conditional_writes = "honored"

    def requests(self, method: str | None = None, key: str = "*") -> list[Request]:
        """The requests since `clear`, in the order in which they came."""
        with self._lock:
            found = list(self._requests)
        return [one for one in found if method in (None, one.method) and fnmatchcase(one.key, key)]

    def count(self, method: str | None = None, key: str = "*") -> int:
        return len(self.requests(method, key))

    def request_bytes(self, method: str | None = None, key: str = "*") -> int:
        """Bytes of bodies that clients sent."""
        return sum(one.request_bytes for one in self.requests(method, key))

    def answer_bytes(self, method: str | None = None, key: str = "*") -> int:
        """Bytes of bodies that clients were sent."""
        return sum(one.answer_bytes for one in self.requests(method, key))

    def _fault_of(self, method: str, key: str, query: str) -> Fault | None:
        with self._lock:
            return next((rule.fault for rule in self._rules if rule.applies(method, key, query)), None)

    def _note(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        self.is_closing = threading.Event()
        super().__init__(*args)

    def server_close(self) -> None:
        self.is_closing.set()
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are nothing to tell."""


class _Cut(Exception):
    """The connection ends here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy._upstream, timeout=120)
        with self.server.proxy._lock:
            self.server.proxy._open.add(self.connection)

    def finish(self) -> None:
        self._upstream.close()
        with self.server.proxy._lock:
            self.server.proxy._open.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *args: Any) -> None:
        """Stay quiet."""

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        self._key = unquote(path).strip("/")
        is_list = self.command == "GET" and "list-type=" in query
        method = "LIST" if is_list else self.command
        fault = self.server.proxy._fault_of(method, self._key, query)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._request = Request(method, self._key, query, headers, fault, time.monotonic())
        self.server.proxy._note(self._request)
        try:
            self._meet(fault)
        except (_Cut, OSError, http.client.HTTPException):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_OPTIONS = _serve

    def _meet(self, fault: Fault | None) -> None:
        if isinstance(fault, CutRequest):
            self._body(up_to=fault.after_bytes)
            raise _Cut
        body = self._body()
        if isinstance(fault, Silence):
            self._wait_for_hang_up()
            raise _Cut
        if isinstance(fault, Delay):
            time.sleep(fault.seconds)
        is_refused = self.server.proxy.conditional_writes == "refused" and self._is_conditional_write()
        answer = NOT_IMPLEMENTED if is_refused else fault
        if isinstance(answer, Answer):
            self._answer_error(answer)
        else:
            self._forward(body, fault)

    def _body(self, up_to: int | None = None) -> bytes:
        left = int(self.headers.get("Content-Length", 0))
        left = left if up_to is None else min(left, up_to)
        chunks = []
        while left and (data := self.rfile.read(min(left, CHUNK_BYTES))):
            chunks.append(data)
            left -= len(data)
            self._request.request_bytes += len(data)
        return b"".join(chunks)

    def _wait_for_hang_up(self) -> None:
        while not self.server.is_closing.wait(0.05):
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _is_conditional_write(self) -> bool:
        return self.command in ("PUT", "POST") and any(name in self.headers for name in _CONDITIONS)

    def _answer_error(self, answer: Answer) -> None:
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{answer.code}</Code>'
            f"<Message>{escape(answer.message)}</Message><Resource>/{escape(self._key)}</Resource></Error>"
        )
        data = b"" if self.command == "HEAD" else text.encode()
        self._begin_answer(answer.status, {"Content-Type": "application/xml"}, len(data))
        self._send(data)

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        answer = self._ask(body)
        if isinstance(fault, LoseAnswer):
            answer.read()
            raise _Cut
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _OF_A_CONNECTION}
        if isinstance(fault, ChangeHeaders):
            changed = {name.lower() for name in fault.headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in changed}
            headers |= fault.headers
        length = answer.getheader("Content-Length")
        first = answer.read() if length is None else b""
        self._begin_answer(answer.status, headers, int(length) if length is not None else len(first))
        left = fault.after_bytes if isinstance(fault, CutAnswer) else None
        while data := first or answer.read(CHUNK_BYTES):
            first = b""
            if left is not None and len(data) > left:
                self._send(data[:left])
                self.wfile.flush()
                raise _Cut
            self._send(data)
            left = None if left is None else left - len(data)

    def _ask(self, body: bytes) -> http.client.HTTPResponse:
        headers = [(name, value) for name, value in self.headers.items() if name.lower() != "expect"]
        if self.server.proxy.conditional_writes == "ignored" and self._is_conditional_write():
            headers = _without_conditions(self.command, self.path, headers)
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            self._upstream.putheader(name, value)
        self._upstream.endheaders(body or None)
        return self._upstream.getresponse()

    def _begin_answer(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self._request.status = status
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, data: bytes) -> None:
        self._request.answer_bytes += len(data)
        self.wfile.write(data)


def _without_conditions(method: str, target: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers without those of a conditional write, signed anew: they were part of the signature.

    Signature version 4, https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in _CONDITIONS]
    values = {name.lower(): value.strip() for name, value in kept}
    kind, _, rest = values["authorization"].partition(" ")
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    signed = [name for name in parts["SignedHeaders"].split(";") if name not in _CONDITIONS]
    path, _, query = target.partition("?")
    canonical = "\n".join(
        [
            method,
            path,
            "&".join(sorted(query.split("&"))),
            *(f"{name}:{values[name]}" for name in signed),
            "",
            ";".join(signed),
            values["x-amz-content-sha256"],
        ]
    )
    access_key, scope = parts["Credential"].split("/", 1)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"{kind}\n{values['x-amz-date']}\n{scope}\n{digest}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    authorization = (
        f"{kind} Credential={access_key}/{scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"
    )
    return [(name, authorization if name.lower() == "authorization" else value) for name, value in kept]
