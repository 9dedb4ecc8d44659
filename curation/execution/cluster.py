"""A Ray cluster: connecting to one or starting it, and what it has."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, Literal

from curation.errors import EnvironmentFault

_ADDRESS = "RAY_ADDRESS"
"""`ray job submit` tells its job the cluster by this variable."""
_MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket."""
_LONGEST_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What Ray puts behind its temporary folder; the last number is a process id."""
CONNECT_TIMEOUT_S = 10.0


def connect(address: str | None, workers: int | None) -> bool:
    """Connect to Ray; True if it was started here and must be stopped here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers without a GPU share must not have theirs hidden or changed by Ray.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    address = address or os.environ.get(_ADDRESS)
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address is None and workers is not None:
        # More workers than CPUs is the user's choice; Ray would wait for CPUs that never come.
        options["num_cpus"] = max(workers, os.cpu_count() or 1)
    if address is not None:
        options = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        _check_reachable(address)
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise EnvironmentFault(f"cannot connect to Ray at {address or 'this machine'}: {error}") from error
    return True


def starts_here(address: str | None) -> bool:
    """Whether a run with this address starts Ray itself, on this machine."""
    return address is None and not os.environ.get(_ADDRESS)


def check_temp_folder() -> None:
    """Make sure that Ray can be started: its sockets have long names, below the temporary folder.

    Raises:
        EnvironmentFault: the folder's own name is too long.
    """
    # As Ray itself chooses it.
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name, "/tmp")  # noqa: S108
    room = _MAX_SOCKET_BYTES - len(_LONGEST_SOCKET)
    if len(os.fsencode(folder)) > room:
        raise EnvironmentFault(
            f"{name}={folder} is too long for Ray's sockets, which have room for {room} bytes; name a "
            "shorter folder by RAY_TMPDIR, such as RAY_TMPDIR=/tmp"
        )


def _check_reachable(address: str) -> None:
    """Ray itself would try for many minutes to reach a cluster that is not there.

    Raises:
        EnvironmentFault: nobody listens at host:port.
    """
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise EnvironmentFault(f"there is no Ray cluster at {address}: {error.strerror or error}") from error


def cluster_cpus() -> int:
    """CPUs of the connected cluster."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Raises EnvironmentFault: a GPU was asked for and the cluster has none."""
    import ray

    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    if asked == "cuda" and not has_gpu:
        raise EnvironmentFault("device: cuda was asked for, but Ray sees no GPU")
    return "cuda" if has_gpu and asked != "cpu" else "cpu"
