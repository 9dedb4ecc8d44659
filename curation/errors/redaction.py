"""Hides secrets in what is shown, stored or hashed: run.json, report, card, errors, fingerprints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"

_OWN_SCHEMES = "tar|parquet|lines|file|package"
"""Schemes of places on this machine: a `?` or an `@` in those belongs to a file's name."""
_BUCKET_SCHEMES = "s3|gs|az"
"""A `?` in those belongs to an object's key; some people write a user before the bucket."""
_SCHEME = rf"\b(?!(?:{_OWN_SCHEMES})://)[a-z][a-z0-9+.-]*://"
_USER = re.compile(rf"({_SCHEME})[^/?#\s]*@", re.IGNORECASE)
_QUERY = re.compile(rf"(\b(?!(?:{_BUCKET_SCHEMES})://){_SCHEME}[^?#\s'\"]*\?)([^#\s'\"]+)", re.IGNORECASE)
_KEY = re.compile(r"""([\w-]+)["']?\s*:""")
_TO_HIDE = "(?:key|token|secret|passw(?:or)?d|credentials?)"
_SECRET_NAME = re.compile(rf"(?:^|[_-]){_TO_HIDE}$", re.IGNORECASE)
_SECRET_SETTING = re.compile(rf"((?:[^?]*[._=-])?{_TO_HIDE})=", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with user and password and the values of the query taken out of every URL in it."""
    return _QUERY.sub(_without_values, _USER.sub(rf"\1{HIDDEN}@", text))


def redact_settings(value: Any) -> Any:
    """Settings without secrets: those in URLs, and whatever stands under a name such as `hf_token`."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redact_item(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_settings(item) for item in value]
    return value


def redact_command(arguments: Iterable[str]) -> str:
    """A command line as a shell takes it, without secrets, those in `--set name=value` included."""
    return shlex.join(_redact_argument(argument) for argument in arguments)


def _redact_argument(argument: str) -> str:
    setting = _SECRET_SETTING.match(argument)
    if setting:
        return f"{setting[1]}={HIDDEN}"
    name, equals, value = argument.partition("=")
    if equals and any(_SECRET_NAME.search(key) for key in _KEY.findall(value)):
        return f"{name}={HIDDEN}"  # a mapping with a secret in it
    return redact(argument)


def _redact_item(key: object, value: Any) -> Any:
    is_secret = isinstance(value, str) and isinstance(key, str) and _SECRET_NAME.search(key)
    return HIDDEN if is_secret and value else redact_settings(value)


def _without_values(found: re.Match[str]) -> str:
    parts = (part.partition("=") for part in found[2].split("&"))
    return found[1] + "&".join(f"{name}={HIDDEN}" if equals else HIDDEN for name, equals, _ in parts)
