"""An S3 server that holds nothing but names: it lists keys, and says how large an object is.

    with KeyServer({"in/a.jpg": 3}) as server:      # pages of 1000 keys in the order of UTF-8, as on AWS
        server.environment                          # reaches it, whatever the keys

Real servers take minutes for as many objects, and not one that runs here keeps keys as AWS does: SeaweedFS
makes `a/b` of `a//b`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from multiprocessing.connection import Connection
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE_KEYS = 1000
ETAG = '"0123456789abcdef0123456789abcdef"'
FOLDER_KEYS = 1000
_CONTROLS = {code: f"&#{code};" for code in range(1, 32)}
_BEHIND_SLASH = chr(ord("/") + 1)


class KeyServer:
    """Serves one bucket of any name, from `with` to its end. `sizes_bytes`: key -> size."""

    def __init__(self, sizes_bytes: Mapping[str, int]) -> None:
        self.sizes_bytes = sizes_bytes
        self.keys = sorted(sizes_bytes, key=str.encode)
        self.requests: list[str] = []
        """Paths that were asked for, with their queries."""
        self.delay_s = 0.0
        """How long the server takes for a page."""
        self.max_at_once = 0
        """Pages that were asked for at the same time, at most."""
        self._num_now = 0
        handler = type("Handler", (_Handler,), {"names": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._encoded = [key.encode() for key in self.keys]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a run reaches this server."""
        return environment_of(self.endpoint)

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def serve(self) -> None:
        """Serve until the process ends."""
        self._http.serve_forever()

    def page(self, prefix: str, after: str, *, by_folder: bool) -> tuple[list[str], bool]:
        """Keys, or folders with a slash at their end, that follow `after`; whether there are more."""
        self._num_now += 1
        self.max_at_once = max(self.max_at_once, self._num_now)
        time.sleep(self.delay_s)
        found = list(islice(self._listed(prefix, after, by_folder=by_folder), PAGE_KEYS + 1))
        self._num_now -= 1
        return found[:PAGE_KEYS], len(found) > PAGE_KEYS

    def _listed(self, prefix: str, after: str, *, by_folder: bool) -> Iterator[str]:
        place = self._place(max(prefix, after, key=str.encode))
        while place < len(self.keys) and self.keys[place].startswith(prefix):
            key = self.keys[place]
            folder, slash, _ = key[len(prefix) :].partition("/")
            place += 1
            if by_folder and slash:
                key = f"{prefix}{folder}/"
                place = self._place(f"{prefix}{folder}{_BEHIND_SLASH}")
            if key.encode() > after.encode():
                yield key

    def _place(self, key: str) -> int:
        return bisect_left(self._encoded, key.encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    names: KeyServer

    def do_HEAD(self) -> None:
        _, _, key = unquote(self.path).lstrip("/").partition("/")
        self.names.requests.append(f"HEAD {key}")
        size_bytes = self.names.sizes_bytes.get(key)
        self.send_response(404 if size_bytes is None else 200)
        self.send_header("Content-Length", str(size_bytes or 0))
        self.send_header("ETag", ETAG)
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()

    def do_GET(self) -> None:
        self.names.requests.append(self.path)
        query = {
            name: values[0]
            for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()
        }
        after = query.get("continuation-token") or query.get("start-after") or ""
        keys, has_more = self.names.page(query.get("prefix", ""), after, by_folder="delimiter" in query)
        token = f"<NextContinuationToken>{_text(keys[-1])}</NextContinuationToken>" if has_more else ""
        parts = [
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>b</Name>',
            f"<IsTruncated>{str(has_more).lower()}</IsTruncated>{token}",
            *(self._entry(key, is_folder="delimiter" in query and key.endswith("/")) for key in keys),
            "</ListBucketResult>",
        ]
        data = "".join(parts).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""

    def _entry(self, key: str, *, is_folder: bool) -> str:
        if is_folder:
            return f"<CommonPrefixes><Prefix>{_text(key)}</Prefix></CommonPrefixes>"
        return (
            f"<Contents><Key>{_text(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(ETAG)}</ETag><Size>{self.names.sizes_bytes[key]}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )


def _text(key: str) -> str:
    return escape(key).translate(_CONTROLS)


def environment_of(endpoint: str) -> dict[str, str]:
    """The variables by which a run reaches such a server, which believes any signature."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }


def made_up_keys(number: int) -> dict[str, int]:
    """Pictures in folders: key -> size."""
    return {f"in/{name // FOLDER_KEYS:05d}/picture{name:08d}.jpg": name + 1 for name in range(number)}


def serve_made_up_keys(number: int, told: Connection) -> None:
    """Serve `made_up_keys` until the process ends; `told` is sent the address."""
    server = KeyServer(made_up_keys(number))
    told.send(server.endpoint)
    server.serve()
