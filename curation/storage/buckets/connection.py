"""How a bucket is reached: endpoint, region and credentials, from the environment alone.

    place = place_of("s3://photos/raw/2026")
    store = connect(place)                      # an obstore store; one per bucket and process

The variables are those of the providers' own tools, which obstore reads: AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SKIP_SIGNATURE=true for anonymous access, and so on. Nothing of them is kept here, so
that no secret travels with an object that is sent to a worker.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from curation.errors import ConfigError
from curation.errors.isolation import isolated

BUCKET_SCHEMES = ("s3", "gs", "az")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": (),
    "az": ("AZURE_ENDPOINT",),
}
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
"""Longest silence of a server in the middle of an answer."""
REQUEST_TIMEOUT_S = 3600.0
"""Longest request as a whole: an object of 5 GB on a slow line."""


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
        ConfigError: it names no bucket.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise ConfigError(f"{url} names no bucket; write {scheme}://BUCKET/FOLDER")
    return Place(scheme, bucket, prefix.strip("/"))


def connect(place: Place) -> Any:
    """The obstore store of a bucket.

    Raises:
        ConfigError: the environment holds what obstore does not take.
    """
    return _store(place.scheme, place.bucket)


def connect_arrow(place: Place) -> Any:
    """Arrow's own client for a bucket on S3, which takes any key; None for other providers."""
    from pyarrow.fs import S3FileSystem

    if place.scheme != "s3":
        return None
    endpoint = next((os.environ[name] for name in _ENDPOINTS["s3"] if os.environ.get(name)), "")
    scheme, _, host = endpoint.rpartition("://")
    is_anonymous = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(
        anonymous=is_anonymous,
        region=region,
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme or "https",
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=READ_TIMEOUT_S,
    )


@lru_cache
def _store(scheme: str, bucket: str) -> Any:
    from obstore.store import AzureStore, GCSStore, S3Store

    kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    endpoints = [os.environ[name] for name in _ENDPOINTS[scheme] if os.environ.get(name)]
    client = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        "allow_http": any(endpoint.startswith("http://") for endpoint in endpoints),
    }
    with isolated(ConfigError):  # obstore's builders raise plain exceptions, too
        return kinds[scheme](bucket, client_options=client)
