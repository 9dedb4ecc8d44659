"""How a bucket is reached: endpoint, region and credentials, from the environment alone.

    place = place_of("s3://photos/raw/2026")
    store = connect(place, Use.OBJECTS)         # an obstore store; one per bucket, use and process

The variables are those of the providers' own tools, which obstore reads, and profiles of AWS
(`credentials.py`). Nothing of them is kept here, so that no secret travels with an object that is sent to a
worker.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from functools import lru_cache
from typing import Any

from curation.errors import ConfigError, StorageError
from curation.errors.isolation import isolated
from curation.storage.buckets.credentials import is_anonymous, s3_settings
from curation.storage.buckets.faults import fault_of
from curation.storage.buckets.retries import retry_config
from curation.storage.retries import deadline_s

BUCKET_SCHEMES = ("s3", "gs", "az")
CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 30.0
"""Longest silence of a server in the middle of an answer, or before it begins."""
UPLOAD_SILENCE_S = 300.0
"""The same while a large body is sent, when a server has nothing to say: 16 MB at 0.5 Mbit/s."""
REQUEST_TIMEOUT_S = 3600.0
"""Longest request as a whole: an object of 5 GB at 11 Mbit/s."""
_ATTEMPT_FRACTION = 0.25
"""Of the time for all attempts, what one of them may take without a sign of life."""
_VARIABLES = ("AWS_", "GOOGLE_", "AZURE_", "AZURITE_", "CURATION_STORAGE_", "HOME")
_NO_BUCKET = re.compile(r"[^A-Za-z0-9._$-]")
"""What no bucket's name contains; `$` belongs to containers of Azure, such as $web."""
_ADDRESS = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?", re.IGNORECASE)
_ENDPOINTS = {"gs": "GOOGLE_BASE_URL", "az": "AZURE_ENDPOINT"}
"""Variables that name another server than the provider's own."""


class Use(Enum):
    """What a store is for, which decides how patient it is by itself."""

    OBJECTS = "small requests, which `persistently` repeats"
    UPLOADS = "large bodies in one request, which `persistently` repeats"
    LISTINGS = "pages one after the other, which obstore repeats one by one"
    PARTS = "large bodies in parts, which obstore repeats one by one"


@dataclass(frozen=True, slots=True)
class Place:
    """Where objects lie: kind of provider, bucket (of Azure: container), and how all of their keys begin.

    Attributes:
        prefix: "" or a folder without a slash at its end.
    """

    scheme: str
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        """As people write it."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def place_of(url: str) -> Place:
    """The place that a URL names. Nothing in a key is escaped: `#`, `?` and `%` stand for themselves.

    Raises:
        ConfigError: it names no bucket, or a bucket or a folder that can't be.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise ConfigError(f"{url} names no bucket; write {scheme}://BUCKET/FOLDER")
    if _NO_BUCKET.search(bucket):  # obstore would ask a broken address, or panic
        raise ConfigError(f"{url}: no bucket has such a name; write {scheme}://BUCKET/FOLDER")
    if {".", ".."} & {*prefix.split("/")}:
        raise ConfigError(f"{url}: a folder of a bucket has no . and no .. in its name")
    return Place(scheme, bucket, prefix.strip("/"))


def connect(place: Place, use: Use = Use.OBJECTS, limit_s: float | None = None) -> Any:
    """The obstore store of a bucket. It follows the environment, should that change.

    `limit_s`: for how long a request may go without success; None takes `deadline_s`.

    Raises:
        ConfigError: the environment holds what obstore does not take.
        StorageError: there are no credentials, or this process was forked from one that uses buckets.
    """
    if _runtime.is_lost:
        raise StorageError(
            f"{place.url}: a process that was forked from one that uses buckets can't reach them itself; "
            "start it by spawn or forkserver"
        )
    _runtime.is_used = True
    variables = tuple(item for item in os.environ.items() if item[0].startswith(_VARIABLES))
    return _store(place.scheme, place.bucket, use, limit_s or deadline_s(), variables)


def forget_credentials() -> None:
    """Let stores be made anew, with what the environment and the profiles hold by then."""
    _store.cache_clear()


def connect_arrow(place: Place) -> Any:
    """Arrow's own client for a bucket on S3, which takes any key; None for other providers.

    Raises:
        StorageError: there are no credentials.
    """
    from pyarrow.fs import S3FileSystem

    if place.scheme != "s3":
        return None
    settings = s3_settings()
    keys = settings["credential_provider"]() if "credential_provider" in settings else {}
    scheme, _, host = settings.get("endpoint", "").rpartition("://")
    regions = (settings.get("region"), os.environ.get("AWS_REGION"), os.environ.get("AWS_DEFAULT_REGION"))
    return S3FileSystem(
        anonymous=is_anonymous(),
        access_key=keys.get("access_key_id"),
        secret_key=keys.get("secret_access_key"),
        session_token=keys.get("token"),
        region=next(filter(None, regions), None),
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme or "https",
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=SILENCE_S,
    )


@lru_cache
def _store(scheme: str, bucket: str, use: Use, limit_s: float, variables: tuple[tuple[str, str], ...]) -> Any:
    """`variables` are only here so that another environment has other stores."""
    import obstore  # noqa: F401  whole, before another thread that imports it has got as far as its parts
    from obstore.store import AzureStore, GCSStore, S3Store

    kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    settings: dict[str, Any] = s3_settings() if scheme == "s3" else {}
    endpoint = settings.get("endpoint") or dict(variables).get(_ENDPOINTS.get(scheme, ""), "")
    if endpoint and not _ADDRESS.fullmatch(
        endpoint
    ):  # obstore would panic; not shown, it may hold a password
        raise ConfigError(
            f"the address of the server of {scheme}:// must read http://HOST:PORT or https://HOST"
        )
    is_upload = use in (Use.UPLOADS, Use.PARTS)
    silence_s = UPLOAD_SILENCE_S if is_upload else min(SILENCE_S, limit_s * _ATTEMPT_FRACTION)
    client = {
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, limit_s * _ATTEMPT_FRACTION)),
        "read_timeout": timedelta(seconds=silence_s),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        "allow_http": endpoint.startswith("http://"),
    }
    retries = retry_config(limit_s if use in (Use.LISTINGS, Use.PARTS) else None)
    try:
        with isolated(ConfigError):  # obstore's builders raise plain exceptions, too
            return kinds[scheme](bucket, client_options=client, retry_config=retries, **settings)
    except ConfigError as error:
        raise ConfigError(f"{scheme}://{bucket}: {fault_of(error.__cause__ or error, scheme)}") from None


class _Runtime:
    """Whether obstore's threads run in this process. A fork leaves them behind, and requests would hang."""

    def __init__(self) -> None:
        self.is_used = self.is_lost = False
        os.register_at_fork(after_in_child=self._note_fork)

    def _note_fork(self) -> None:
        self.is_lost = self.is_used


_runtime = _Runtime()
