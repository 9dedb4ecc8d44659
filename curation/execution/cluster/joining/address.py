"""Addresses of Ray clusters: what they may be, and whether the head of one answers there.

address = cluster_address(options.address)      # None: Ray is to be started here
check_head(address)                             # a sentence instead of what Ray would print
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from curation.errors import ConfigError, EnvironmentFault
from curation.execution.cluster.joining import head

_VARIABLE = "RAY_ADDRESS"
"""`ray job submit` tells its job the cluster by this variable."""
_MODE, _TOKEN, _TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_LEVEL = "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"
"""`minor` lets Ray connect although the last number of Python's version differs."""
_HOW = "HOST:PORT of its head, as in 10.0.0.1:6379"
CONNECT_TIMEOUT_S = 10.0
HTTP_ANSWER_S = 2.0
"""A dashboard answers at once; a head of Ray says nothing to HTTP, or hangs up."""
ANSWER_S = 30.0
"""The head gets so long to answer, the start of the program that asks it included."""


def cluster_address(address: str | None) -> str | None:
    """The cluster to connect to: as asked for, or as `ray job submit` says; None to start Ray here."""
    address = address or os.environ.get(_VARIABLE) or "local"
    return None if address == "local" else address


def check_head(address: str) -> None:
    """Make sure that the head of a cluster answers here, takes our token, and runs the same versions.

    Raises:
        ConfigError: that is no address that a run can connect to.
        EnvironmentFault: it does not, or not within `ANSWER_S`.
    """
    _check_form(address)
    check_token_file()
    if address != "auto":
        _check_port(address)
    answer = _ask(address)
    if "error" in answer:
        raise EnvironmentFault(_explained(address, answer["error"], answer["text"]))
    _check_versions(address, answer)


def check_token_file() -> None:
    """Ray ends the process where it looks for a token in vain.

    Raises:
        EnvironmentFault: there is no token where the environment says.
    """
    name = os.environ.get(_TOKEN_FILE)
    if os.environ.get(_MODE, "").lower() != "token" or os.environ.get(_TOKEN) or name is None:
        return
    try:
        is_empty = not Path(name).read_text().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise EnvironmentFault(
            f"{_TOKEN_FILE}={name}: {reason}; it names the file with Ray's token"
        ) from error
    if is_empty:
        raise EnvironmentFault(f"{_TOKEN_FILE}={name} is empty; it names the file with Ray's token")


def _check_form(address: str) -> None:
    scheme, separator, _ = address.partition("://")
    if separator and scheme in ("http", "https"):
        raise ConfigError(
            f"{address} is a dashboard, to which jobs are given: ray job submit --address {address} ...; "
            f"a run connects to a cluster by the {_HOW} (--address, or {_VARIABLE})"
        )
    if separator:
        raise ConfigError(
            f"{address}: a run cannot use Ray Client; from outside of the cluster use ray job submit, and "
            f"from one of its machines the {_HOW}"
        )
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit()):
        raise ConfigError(f"{address} is no address of a Ray cluster; write the {_HOW}")


def _check_port(address: str) -> None:
    """Ray itself would try for minutes to reach a cluster that is not there.

    Raises:
        EnvironmentFault: nobody listens there, or somebody who speaks HTTP.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S) as connection:
            speaks_http = _speaks_http(connection)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EnvironmentFault(f"there is no Ray cluster at {address}: {reason}") from error
    if speaks_http:
        raise EnvironmentFault(
            f"a web server listens at {address}: if that is the dashboard, give it jobs by ray job submit "
            f"--address http://{address}; a run connects to a cluster by the {_HOW}"
        )


def _speaks_http(connection: socket.socket) -> bool:
    connection.settimeout(HTTP_ANSWER_S)
    try:
        connection.sendall(b"GET /api/version HTTP/1.0\r\n\r\n")
        return connection.recv(16).startswith(b"HTTP/1.")
    except OSError:
        return False


def _ask(address: str) -> dict[str, Any]:
    """What `head.py` prints."""
    # Without this file's folder in the path: its modules have names that others have, too.
    words = [sys.executable, "-P", head.__file__, address]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFault(
            f"nobody answers at {address} as the head of a Ray cluster within {ANSWER_S:.0f} s; is it alive, "
            "and is that the port of `ray start --port`?"
        ) from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        text = said[-1] if said else f"the program that asks it ended with {done.returncode}"
        return {"error": "", "text": text}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _explained(address: str, error: str, text: str) -> str:
    """What the head's answer means."""
    if error == "AuthenticationError":
        return _about_token(address)
    if "Method not found" in text:
        return f"what answers at {address} is not the head of a Ray cluster; write the {_HOW}"
    return f"cannot connect to Ray at {address}: {' '.join(text.split())}"


def _about_token(address: str) -> str:
    if os.environ.get(_MODE, "").lower() != "token":
        return (
            f"the Ray cluster at {address} wants a token: set {_MODE}=token, and {_TOKEN_FILE} to the file "
            f"that holds the token of its head (or {_TOKEN} to the token itself)"
        )
    held = next((name for name in (_TOKEN, _TOKEN_FILE) if os.environ.get(name)), "~/.ray/auth_token")
    return (
        f"the Ray cluster at {address} does not take the token of {held}; name the file that holds the token "
        f"of its head by {_TOKEN_FILE}"
    )


def _check_versions(address: str, answer: dict[str, Any]) -> None:
    """Raises EnvironmentFault: the cluster's Ray or Python is another one, which Ray does not allow."""
    import ray

    parts = 2 if os.environ.get(_LEVEL) == "minor" else 3
    theirs, ours = answer["python"], platform.python_version()
    is_same = theirs.split(".")[:parts] == ours.split(".")[:parts] and answer["ray"] == ray.__version__
    if not is_same:
        raise EnvironmentFault(
            f"the Ray cluster at {address} runs Ray {answer['ray']} on Python {theirs}, and this is Ray "
            f"{ray.__version__} on Python {ours}; both must be the same, so start the run with the Python of "
            "the cluster's machines"
        )
