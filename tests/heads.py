"""Head nodes of real Ray clusters on loopback, each with ports, a temporary folder and a token of its own.

with Head(token="...") as head:
    head.address                    # for `curation run --address`
    head.dashboard                  # for `ray job submit --address`
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from buckets import free_ports
from curation.execution.cluster.supervisor import kill_all, processes_of

READY_S = 90.0
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
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [ray_command(), "start", "--head", "--block", "--disable-usage-stats", *words],
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        while kill_all(str(self._folder), spared={os.getpid()}):
            time.sleep(0.1)
        shutil.rmtree(self._folder)

    def signal(self, program: str, number: signal.Signals) -> None:
        """Send a signal to one of its programs, such as `gcs_server`."""
        found = [
            pid
            for pid in processes_of(str(self._folder))
            if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
        ]
        assert len(found) == 1, found
        os.kill(found[0], number)

    @property
    def _log(self) -> Path:
        return self._folder / "head.log"

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while "Ray runtime started" not in self._log.read_text(errors="replace"):
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text(errors="replace")
            assert time.monotonic() < deadline, self._log.read_text(errors="replace")
            time.sleep(0.2)
