"""Files behind URLs, fetched once per machine. What a download that broke off has brought is kept.

    path = download("https://example.org/head.pth", sha256)

The file lies under its sha256 in the cache folder; until all of it is there, in another folder.
"""

from __future__ import annotations

import base64
import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from curation.errors import EnvironmentFault, MissingDependencyError
from curation.pipeline.model_files import cache_folder, digest_of_model, locked
from curation.storage.base import ignore

_FETCHING = "fetching"
"""Folder of what is not there as a whole, and of locks."""
_PART_BYTES = 1 << 20
_TIMEOUT_S = 60.0
_PARTIAL, _BEYOND = 206, 416
"""HTTP statuses: a part of the file, and nothing behind the part that is there."""


def cached_file(sha256: str) -> Path:
    """Where the file is, or would be."""
    return cache_folder() / sha256


def open_url(url: str, timeout_s: float, start: int = 0) -> Any:
    """The reply; user and password of the URL go into a header, and not to where the server redirects.

    With `start` the server is asked for what comes from that byte on; its status says whether it does so.
    """
    parts = urlsplit(url)
    request = Request(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))  # noqa: S310
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        basic = base64.b64encode(login.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {basic}")
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return urlopen(request, timeout=timeout_s)  # noqa: S310  the scheme is checked by the caller
    except HTTPError as error:
        error.close()  # it holds the connection
        raise


def download(url: str, sha256: str, on_fetch: Callable[[int], None] = ignore) -> Path:
    """The file behind a URL on this machine; `on_fetch` is told how many bytes come.

    Raises:
        MissingDependencyError: it can't be fetched; what came stays for the next try.
        EnvironmentFault: it is another file.
    """
    target = cached_file(sha256)
    if _is_there(target, sha256):
        return target
    part = target.parent / _FETCHING / sha256
    part.parent.mkdir(parents=True, exist_ok=True)
    with locked(part.with_name(f"{sha256}.lock")):
        if _is_there(target, sha256):
            return target
        try:
            _fetch(url, part, on_fetch)
        except (OSError, http.client.HTTPException) as error:
            raise MissingDependencyError(f"cannot download {url}: {error}") from error
        digest = digest_of_model(part)
        if digest != sha256:
            part.unlink()
            raise EnvironmentFault(f"{url} has sha256 {digest}, the configuration says {sha256}")
        part.replace(target)
    return target


def _is_there(target: Path, sha256: str) -> bool:
    return target.is_file() and digest_of_model(target) == sha256


def _fetch(url: str, part: Path, on_fetch: Callable[[int], None]) -> None:
    """Bring what is missing of a file."""
    start = part.stat().st_size if part.is_file() else 0
    try:
        reply = open_url(url, _TIMEOUT_S, start)
    except HTTPError as error:
        if not start or error.code != _BEYOND:
            raise
        return  # all of it was there, or it is another file, as its digest will tell
    with reply, part.open("ab" if reply.status == _PARTIAL else "wb") as file:
        missing = int(reply.headers["Content-Length"] or 0)
        while data := reply.read(_PART_BYTES):
            file.write(data)
            on_fetch(len(data))
            missing -= len(data)
    if missing > 0:
        raise OSError(f"{missing} bytes never came")
