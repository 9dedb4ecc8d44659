"""A vLLM server that a run starts, watches and stops."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx2
from pydantic import Field

from curation.captioner import supervisor
from curation.captioner.settings import CaptionConfig
from curation.errors import EnvironmentFault
from curation.stage import Location, Resources, Setup, StageConfig

URL, KEY = "captions_url", "captions_key"
"""What workers are told, in `Setup.services`."""
POLL_S = 0.5
_LOG_BYTES = 2**16
STOP_S = supervisor.GRACE_S + 15
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
_THREADS = "OMP_NUM_THREADS"


class ServeConfig(StageConfig):
    """The server that a run starts, watches and stops."""

    python: Location | None = None
    """The Python that has vLLM, such as .venv-caption/bin/python, on every node where the server may run; by
    default the one that runs this."""
    host: str | None = None
    """Address to listen on, if it is not to be loopback, or on a cluster the address of the server's node."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port to listen on; 0 takes a free one."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds for loading the model."""
    max_restarts: Annotated[int, Field(ge=0)] = 5
    """A server that ended by itself this many times is not started again; nor is one whose node was lost."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables for the server. They go to run.json, but for what is named like a secret."""


class CaptionServer:
    """A server that answers as `config.model`, as a service of the core (`curation.stage.Service`).

    Attributes:
        max_restarts: See `ServeConfig`; so often too it is moved when its node or its process was lost.
    """

    def __init__(
        self, config: CaptionConfig, serve: ServeConfig, arguments: Callable[[Setup], Mapping[str, Any]]
    ) -> None:
        """`arguments` are those of vLLM's engine, on the node where it is to run."""
        # Where it will run, another folder may be the current one.
        python = None if serve.python is None else str(Path(serve.python).absolute())
        self._config = config
        self._serve = serve.model_copy(update={"python": python})
        self._arguments = arguments
        self._key = secrets.token_urlsafe(24)  # stays when the server moves
        self._keeps_threads = _THREADS in os.environ
        self._server: ModelServer | None = None
        self._is_stopped = False
        self.max_restarts = serve.max_restarts
        self.start_timeout_s = serve.start_timeout_s

    def resources(self) -> Resources:
        return Resources(
            gpu=True, whole_gpus=self._config.tensor_parallel_size, group="captions", max_workers=1
        )

    def start(self, setup: Setup, host: str) -> dict[str, str]:
        """The server's URL and key, once it answers.

        Raises:
            EnvironmentFault: it does not start.
        """
        serve = self._serve
        address = serve.host or host
        port = serve.port or _free_port(address)
        command = server_command(self._config, serve, self._arguments(setup), address, port)
        if shutil.which(command[0]) is None:
            raise EnvironmentFault(
                f"captions.serve.python: there is no {command[0]} on {socket.gethostname()}"
            )
        url = f"http://{_in_url(address)}:{port}"
        server = self._server = ModelServer(command, self._environment(), url, serve.max_restarts)
        if self._is_stopped:
            server.stop()
        server.start(serve.start_timeout_s)
        return {URL: f"{url}/v1", KEY: self._key}

    def stop(self) -> None:
        self._is_stopped = True
        if self._server is not None:
            self._server.stop()

    def _environment(self) -> dict[str, str]:
        """The node's, but for the number of threads that Ray sets for its own workers."""
        inherited = dict(os.environ)
        if not self._keeps_threads:
            inherited.pop(_THREADS, None)
        return {**_ENVIRONMENT, **inherited, **self._serve.environment, "VLLM_API_KEY": self._key}


def server_command(
    config: CaptionConfig, serve: ServeConfig, arguments: Mapping[str, Any], host: str, port: int
) -> list[str]:
    """The command line of vLLM's server with the engine's arguments."""
    given = dict(arguments) | {"served_model_name": config.model, "host": host, "port": port}
    model = str(given.pop("model"))
    if config.frames_as == "video":
        given["trust_request_mm_kwargs"] = True  # requests tell the frames' rate
    python = serve.python or sys.executable
    command = [python, "-m", "vllm.entrypoints.cli.main", "serve", model, "--disable-uvicorn-access-log"]
    return [*command, *(_flag(name.replace("_", "-"), value) for name, value in given.items())]


def _flag(name: str, value: Any) -> str:
    """With `=`, so that a value is never taken for another argument."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={json.dumps(value) if isinstance(value, dict | list) else value}"


class ModelServer:
    """A server process under a supervisor, started again when it ends by itself."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], url: str, max_restarts: int
    ) -> None:
        self.url = url
        self._command = [sys.executable, supervisor.__file__, *command]
        self._environment = dict(environment)
        self._left_restarts = max_restarts
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._progress = threading.Thread(target=self._watch, daemon=True)

    def start(self, timeout_s: float) -> None:
        """Start, and wait until it answers.

        Raises:
            EnvironmentFault: it ended, or did not answer in time; the message has the end of its log. Or
                it was stopped meanwhile.
        """
        process = self._process = self._spawn()
        give_up_at = time.monotonic() + timeout_s
        while not self._is_healthy():
            has_ended = process.poll() is not None
            if self._stopping.is_set():
                _end(process)
                raise EnvironmentFault("the caption server was stopped while it started")
            if has_ended:
                raise EnvironmentFault(f"the caption server ended while it started:\n{self._log_end()}")
            if time.monotonic() > give_up_at:
                raise EnvironmentFault(
                    f"the caption server did not answer within {timeout_s:g} s:\n{self._log_end()}"
                )
            time.sleep(POLL_S)
        self._progress.start()

    def stop(self) -> None:
        """End the server and everything it started."""
        self._stopping.set()
        if self._progress.is_alive():
            self._progress.join()
        if self._process is not None:
            _end(self._process)
        self._log.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603  the command is the configuration's
                self._command,
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the run, which stops the server afterwards
            )
        except OSError as error:
            raise EnvironmentFault(f"cannot start the caption server: {error}") from error

    def _watch(self) -> None:
        """Start the server again where it was, so that workers that go on asking find it."""
        while not self._stopping.wait(POLL_S):
            process = self._process
            if process is None or process.poll() is None or self._left_restarts == 0:
                continue
            self._left_restarts -= 1
            _end(process)
            self._process = self._spawn()

    def _is_healthy(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False

    def _log_end(self, num_lines: int = 25) -> str:
        length = os.fstat(self._log.fileno()).st_size
        # Without moving the position, which the server shares.
        said = os.pread(self._log.fileno(), _LOG_BYTES, max(0, length - _LOG_BYTES))
        return "\n".join(said.decode(errors="replace").splitlines()[-num_lines:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the supervisor, and wait."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
