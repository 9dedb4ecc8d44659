"""Head nodes of real Ray clusters on loopback, each with ports, a temporary folder and a token of its own.

with Head(token="...") as head:
    head.address                    # for `curation run --address`
    head.dashboard                  # for `ray job submit --address`
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import ray
from ray.cluster_utils import Cluster

from buckets import free_ports
from curation.execution.cluster.joining.supervisor import kill_all, processes_of

READY_S = 90.0
NUM_STARTS = 3
_TOO_SLOW = "timed out during startup"
"""Ray gives a node 30 s to start, which a busy machine may not keep."""
END_S = 30.0
_PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")


def ray_command() -> str:
    """The program `ray` of this environment."""
    return str(Path(sys.executable).parent / "ray")


class Head:
    """One node that is a whole cluster. Nothing but its own processes is stopped."""

    def __init__(self, *, token: str | None = None, num_cpus: int = 2, dashboard: bool = False) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # sockets have long names
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._num_cpus = num_cpus
        self._has_dashboard = dashboard
        self._token = token
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where runs connect."""
        return f"127.0.0.1:{self._ports['port']}"

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self._ports['dashboard-port']}"

    @property
    def client_address(self) -> str:
        """Where Ray Client is spoken."""
        return f"127.0.0.1:{self._ports['ray-client-server-port']}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process may use this cluster."""
        if self._token is None:
            return {"RAY_AUTH_MODE": "disabled"}
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._folder / "token")}

    def __enter__(self) -> Self:
        if self._token is not None:
            (self._folder / "token").write_text(self._token)
        options = {
            "temp-dir": self._folder / "ray",
            "num-cpus": self._num_cpus,
            "include-dashboard": str(self._has_dashboard).lower(),
            "dashboard-host": "127.0.0.1",
            "node-ip-address": "127.0.0.1",
            "min-worker-port": 0,  # any that is free
            "max-worker-port": 0,
            **self._ports,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        try:
            start = [ray_command(), "start", "--head", "--block", "--disable-usage-stats", *words]
            self._process = _started(start, self._folder / "head.log", self.environment)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            _end(self._process)
        while kill_all(str(self._folder), spared={os.getpid()}):
            time.sleep(0.1)
        shutil.rmtree(self._folder)

    @contextmanager
    def joined(self, *, name: str, hidden: Sequence[Path] = ()) -> Iterator[None]:
        """Another node of one CPU, in which these folders are empty: it has mounts of its own.

        It ends with the cluster.
        """
        mounts = [f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in hidden]
        start = [ray_command(), "start", f"--address={self.address}", "--block", "--disable-usage-stats"]
        start += ["--num-cpus=1", "--min-worker-port=0", "--max-worker-port=0", f"--node-name={name}"]
        script = " && ".join([*mounts, f"exec {shlex.join(start)}"])
        unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        process = _started([*unshare, "sh", "-c", script], self._folder / f"{name}.log", self.environment)
        try:
            yield
        finally:
            _end(process)

    def signal(self, program: str, number: signal.Signals) -> None:
        """Send a signal to one of its programs, such as `gcs_server`."""
        found = [
            pid
            for pid in processes_of(str(self._folder))
            if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
        ]
        assert len(found) == 1, found
        os.kill(found[0], number)


def _started(words: Sequence[str], log_file: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The process of `ray start --block`, once the node is up."""
    for _ in range(NUM_STARTS):
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                words, stdout=log, stderr=log, env=os.environ | variables, start_new_session=True
            )
        said = _said_at_start(process, log_file)
        if _TOO_SLOW not in said:
            break
    assert "Ray runtime started" in said, said
    return process


def _said_at_start(process: subprocess.Popen[bytes], log_file: Path) -> str:
    deadline = time.monotonic() + READY_S
    said = ""
    while "Ray runtime started" not in said and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        said = log_file.read_text(errors="replace")
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


NODE = {"num_cpus": 1, "include_dashboard": False}
"""A node of `cluster_of`. Two clusters with dashboards would want the same port."""


@contextmanager
def cluster_of(*nodes: Mapping[str, Any]) -> Iterator[Cluster]:
    """A cluster of these nodes in processes of this one, the first its head; it is left and ended here."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, **nodes[0]})
    try:
        for node in nodes[1:]:
            cluster.add_node(**{**NODE, **node})
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.global_state.disconnect()  # it would go on looking for the head, with all of a core
        cluster.shutdown()
