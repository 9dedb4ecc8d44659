"""A Ray cluster: connecting to one or starting it, and what it has.

connection = connect(address, workers)
...
connection.close()
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from typing import Any, Literal

from curation.errors import EnvironmentFault
from curation.errors.isolation import isolated
from curation.execution.cluster.joining.address import check_head, check_token_file, cluster_address
from curation.execution.cluster.joining.credentials import environment_hook
from curation.execution.cluster.joining.logs import WorkerLog, forward_worker_logs
from curation.execution.cluster.joining.own_ray import OwnRay, own_signals, temp_folder
from curation.execution.cluster.limits import within

_MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket."""
_LONGEST_SOCKET = "/ray-12345678/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What a run and Ray put behind the temporary folder; the last number is a process id."""
CONNECT_S = 25.0
"""Longest time to join a cluster whose head has answered. Where the raylet of this machine is silent for
30 s, Ray ends this process by itself, and says so."""
ANSWER_S = 30.0
"""The head of a cluster gets so long to say what the cluster has."""
STARTS = 3
"""So often Ray is started on a machine so busy that Ray itself gives up, after 30 s that can't be changed."""
_TOO_SLOW = "timed out during startup"
LAST_LINES_S = 1.5
"""What workers printed last takes so long to come here: Ray looks for it now and then."""
SHUTDOWN_S = 10.0
"""Ray gets so long to disconnect."""


class Connection:
    """To Ray; `close` gives up what `connect` did.

    A Ray that was there before is left as it was: its own connection, if this process had one, stays.
    """

    def __init__(
        self, own: OwnRay | None = None, *, is_new: bool = True, with_worker_logs: bool = False
    ) -> None:
        self._own = own
        self._is_new = is_new
        self._with_worker_logs = with_worker_logs

    def close(self) -> None:
        """Disconnect, and end the Ray that was started here. May be called again."""
        if not self._is_new:
            return
        import ray

        self._is_new = False
        if self._with_worker_logs:
            time.sleep(LAST_LINES_S)
        # In a thread, since Ray waits for ever for a raylet that is stopped.
        shutdown = threading.Thread(target=ray.shutdown, daemon=True)
        shutdown.start()
        try:
            own_signals(partial(shutdown.join, SHUTDOWN_S))
        finally:
            if self._own is not None:
                self._own.end()


def connect(address: str | None, workers: int | None, worker_log: WorkerLog | None = None) -> Connection:
    """Connect to the cluster at this address, or that of `ray job submit`, or start Ray on this machine.

    `worker_log` gets what workers print, in a thread; None: nobody does.

    Raises:
        ConfigError: that is no address that a run can connect to.
        EnvironmentFault: that did not work.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers without a GPU share must not have theirs hidden or changed by Ray.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return Connection(is_new=False)
    forward_worker_logs(worker_log)
    has_log = worker_log is not None
    cluster = cluster_address(address)
    if cluster is not None:
        check_head(cluster)
        _join(cluster, with_worker_logs=has_log)
        return Connection(with_worker_logs=has_log)
    check_token_file()
    # More workers than CPUs is the user's choice; Ray would wait for CPUs that never come.
    num_cpus = None if workers is None else max(workers, os.cpu_count() or 1)
    own = _start(num_cpus, with_worker_logs=has_log)
    return Connection(own, with_worker_logs=has_log)


def _start(num_cpus: int | None, *, with_worker_logs: bool, tries: int = STARTS) -> OwnRay:
    """Start Ray on this machine.

    Raises:
        EnvironmentFault: that did not work.
    """
    try:
        with isolated(EnvironmentFault):  # Ray raises plain exceptions, too
            return OwnRay(num_cpus, with_worker_logs=with_worker_logs)
    except EnvironmentFault as error:
        if tries > 1 and _TOO_SLOW in str(error):
            return _start(num_cpus, with_worker_logs=with_worker_logs, tries=tries - 1)
        raise EnvironmentFault(f"cannot start Ray on this machine: {error}") from error


def _join(address: str, *, with_worker_logs: bool = False) -> None:
    """Connect to a cluster whose head answers.

    Raises:
        EnvironmentFault: that did not work.
    """
    import ray

    # In a thread it also leaves our handling of signals alone.
    hook = environment_hook()
    runtime_env = None if hook is None else {"worker_process_setup_hook": hook}
    logs: dict[str, Any] = {"log_to_driver": with_worker_logs, "logging_level": "ERROR"}
    join = partial(ray.init, address=address, runtime_env=runtime_env, **logs)
    try:
        within(CONNECT_S, join, "it did not let this machine join")
    except EnvironmentFault as error:
        raise EnvironmentFault(f"cannot connect to Ray at {address}: {error}") from error


def starts_here(address: str | None) -> bool:
    """Whether a run with this address starts Ray itself, on this machine."""
    return cluster_address(address) is None


def check_cluster(address: str | None) -> None:
    """Make sure that a run with this address can connect to its cluster, unless it has done so.

    Raises:
        ConfigError: that is no address that a run can connect to.
        EnvironmentFault: the cluster's head does not answer, or refuses.
    """
    cluster = cluster_address(address)
    if cluster is None:
        return
    import ray

    if not ray.is_initialized():
        check_head(cluster)


def check_temp_folder() -> None:
    """Make sure that Ray can be started: its sockets have long names, below the temporary folder.

    Raises:
        EnvironmentFault: the folder's own name is too long.
    """
    name, folder = temp_folder()
    room = _MAX_SOCKET_BYTES - len(_LONGEST_SOCKET)
    if len(os.fsencode(folder)) > room:
        raise EnvironmentFault(
            f"{name}={folder} is too long for Ray's sockets, which have room for {room} bytes; name a "
            "shorter folder by RAY_TMPDIR, such as RAY_TMPDIR=/tmp"
        )


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Where models run: on GPUs if the cluster has any, unless the CPU was asked for.

    Raises:
        EnvironmentFault: a GPU was asked for, and there is none; or the cluster's head does not answer.
    """
    has_gpu = _resources().get("GPU", 0) > 0
    if asked == "cuda" and not has_gpu:
        raise EnvironmentFault("device: cuda was asked for, but Ray sees no GPU")
    return "cuda" if has_gpu and asked != "cpu" else "cpu"


def _resources() -> dict[str, float]:
    import ray

    return within(ANSWER_S, ray.cluster_resources, "the head of the Ray cluster did not answer")
