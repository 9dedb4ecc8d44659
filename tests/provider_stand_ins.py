"""Stand-ins on loopback of Google Cloud Storage (its XML API) and Azure Blob Storage, as far as obstore asks.

They are written after the providers' documentation: Google compares generations where a write depends on a
version, and Azure ETags, which have quotes in headers and none in listings. Credentials are not checked.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from loopback import LoopbackServer, QuietHandler

BUCKET = "photos"
AZURE_ACCOUNT = "account"
_NOW = formatdate(0, usegmt=True)


class ProviderStandIn(LoopbackServer):
    """Objects of one bucket: key -> content and number of the write that made it."""

    def __init__(self, handler: type[_Objects], path: str = "") -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.numbers = itertools.count(1_700_000_000_000_001)
        super().__init__(type("Handler", (handler,), {"server_of_test": self}), path)


def google() -> tuple[ProviderStandIn, Mapping[str, str]]:
    """A server, and the variables by which it is reached."""
    server = ProviderStandIn(_Google)
    return server, {"GOOGLE_BASE_URL": server.url, "GOOGLE_BEARER_TOKEN": "token"}


def azure() -> tuple[ProviderStandIn, Mapping[str, str]]:
    """A server, and the variables by which it is reached."""
    server = ProviderStandIn(_Azure, f"/{AZURE_ACCOUNT}")
    account = {"AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}
    return server, {"AZURE_ENDPOINT": server.url, **account}


class _Objects(QuietHandler):
    server_of_test: ProviderStandIn

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if not self._key():
            self.send(200, self.listing(query.get("prefix", [""])[0]).encode())
            return
        found = self._found()
        if found is None:
            self.send(404, b"")
            return
        data, headers = found[0], self._said(*found)
        if self.headers["If-Match"] not in (None, headers["ETag"]):
            self.send(412, b"")
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or self.headers["x-ms-range"] or "")
        if span is None:
            self.send(200, data, **headers)
            return
        start, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        if start >= len(data):
            self.send(416, b"", **headers)
            return
        headers["Content-Range"] = f"bytes {start}-{last}/{len(data)}"
        self.send(206, data[start : last + 1], **headers)

    def do_HEAD(self) -> None:
        found = self._found()
        self.send_response(404 if found is None else 200)
        if found is not None:
            for name, value in {**self._said(*found), "Content-Length": str(len(found[0]))}.items():
                self.send_header(name, value)
        self.end_headers()

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        refusal = self.refusal(self._found())
        if refusal:
            self.send(refusal, b"")
            return
        made = data, next(self.server_of_test.numbers)
        self.server_of_test.objects[self._key()] = made
        self.send(self.created, b"", **self._said(*made))

    def do_DELETE(self) -> None:
        gone = self.server_of_test.objects.pop(self._key(), None)
        self.send(404 if gone is None else self.deleted, b"")

    created = deleted = 200

    def refusal(self, found: tuple[bytes, int] | None) -> int:
        """The status of a write whose condition does not hold; else 0."""
        raise NotImplementedError

    def listing(self, prefix: str) -> str:
        raise NotImplementedError

    def etag(self, data: bytes, number: int) -> str:
        raise NotImplementedError

    def _said(self, data: bytes, number: int) -> dict[str, str]:
        said = {"ETag": f'"{self.etag(data, number)}"', "Last-Modified": _NOW}
        return said | {"x-goog-generation": str(number)}

    def _found(self) -> tuple[bytes, int] | None:
        return self.server_of_test.objects.get(self._key())

    def _key(self) -> str:
        path = unquote(urlsplit(self.path).path)
        return path.partition(f"/{BUCKET}")[2].removeprefix("/")

    def _below(self, prefix: str) -> list[tuple[str, int, str]]:
        """Keys, sizes and ETags."""
        found = sorted(self.server_of_test.objects.items())
        return [(escape(key), len(of[0]), self.etag(*of)) for key, of in found if key.startswith(prefix)]


class _Google(_Objects):
    def refusal(self, found: tuple[bytes, int] | None) -> int:
        wanted = self.headers["x-goog-if-generation-match"]
        return 412 if wanted is not None and int(wanted) != (found[1] if found else 0) else 0

    def etag(self, data: bytes, number: int) -> str:
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def listing(self, prefix: str) -> str:
        rows = "".join(
            f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;{etag}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, size, etag in self._below(prefix)
        )
        return f"<ListBucketResult>{rows}</ListBucketResult>"


class _Azure(_Objects):
    created, deleted = 201, 202

    def refusal(self, found: tuple[bytes, int] | None) -> int:
        if self.headers["If-None-Match"] == "*" and found:
            return 409
        wanted = self.headers["If-Match"]
        return 412 if wanted and (found is None or wanted != f'"{self.etag(*found)}"') else 0

    def etag(self, data: bytes, number: int) -> str:
        return f"0x8D{number:X}"

    def listing(self, prefix: str) -> str:
        # Unlike in headers, ETags have no quotes here.
        rows = "".join(
            f"<Blob><Name>{key}</Name><Properties><Last-Modified>{_NOW}</Last-Modified><Etag>{etag}</Etag>"
            f"<Content-Length>{size}</Content-Length><Content-Type>x/y</Content-Type></Properties></Blob>"
            for key, size, etag in self._below(prefix)
        )
        return f'<?xml version="1.0"?><EnumerationResults><Blobs>{rows}</Blobs></EnumerationResults>'

    def do_POST(self) -> None:
        """Several deletions in one request, each answered for itself."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        parts = []
        for number, path in enumerate(re.findall(r"^DELETE (\S+) HTTP", body, re.MULTILINE)):
            key = unquote(urlsplit(path).path).partition(f"/{BUCKET}/")[2]
            gone = self.server_of_test.objects.pop(key, None)
            status = "404 The specified blob does not exist." if gone is None else "202 Accepted"
            parts.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
                f"HTTP/1.1 {status}\r\nx-ms-version: 2018-11-09\r\n\r\n"
            )
        data = "".join([*parts, "--batch--\r\n"]).encode()
        self.send_response(202)
        self.send_header("Content-Type", "multipart/mixed; boundary=batch")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
