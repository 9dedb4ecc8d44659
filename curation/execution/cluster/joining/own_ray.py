"""A Ray of the run's own, on this machine: started lean, and ended with everything that it started.

    ray = OwnRay(num_cpus=2)
    ...
    ray.end()

Beside the workers, Ray starts programs that a run on one machine has no use for: a dashboard, an autoscaler
and one that forwards logs. They cost more than a second of start-up, so they are left out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from curation.execution.cluster.joining import supervisor

T = TypeVar("T")

END_S = 3.0
"""How long the end of a run waits for Ray's processes; the supervisor goes on after it."""


class OwnRay:
    """Ray's processes for one run, and the supervisor that ends them should the run not do so."""

    def __init__(self, num_cpus: int | None, *, with_worker_logs: bool = False) -> None:
        """Start Ray, and connect to it.

        Args:
            num_cpus: Workers of one CPU each that Ray will have room for; None for this machine's CPUs.
            with_worker_logs: Also start what brings here what workers print.

        Raises:
            RuntimeError, ValueError, ConnectionError, TimeoutError: as `ray.init` does.
        """
        import ray

        _, parent = temp_folder()
        self._folder = tempfile.mkdtemp(prefix="ray-", dir=parent)
        self._supervisor = _supervise(self._folder)
        options: dict[str, Any] = {"log_to_driver": with_worker_logs, "logging_level": "ERROR"}
        # Or Ray waits, without a limit, for the first workers of the first driver: also where one was killed.
        options["_system_config"] = {"prestart_worker_first_driver": False}
        start = partial(
            ray.init, "local", num_cpus=num_cpus, include_dashboard=False, _temp_dir=self._folder, **options
        )
        with contextlib.ExitStack() as unless_started:
            unless_started.callback(self.end)
            unless_started.callback(ray.shutdown)
            lean = _lean_node(with_worker_logs=with_worker_logs)
            with _marked(self._folder), _without_input(), lean:
                own_signals(start)
            unless_started.pop_all()

    def end(self) -> None:
        """End every process that is left, and remove Ray's folder. May be called again."""
        if self._supervisor.stdin is None or self._supervisor.stdin.closed:
            return
        self._supervisor.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._supervisor.wait(END_S)


def temp_folder() -> tuple[str, str]:
    """The environment variable that names the folder for Ray's sockets and logs, and the folder."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    return name, os.environ.get(name, "/tmp")  # noqa: S108


def own_signals(change: Callable[[], T]) -> T:
    """Connect to Ray or disconnect, but keep our own handling of SIGTERM.

    Ray replaces it by its own when it connects, and by none when it disconnects, without Python's knowledge.
    """
    if threading.current_thread() is not threading.main_thread():
        return change()
    before = signal.getsignal(signal.SIGTERM)
    try:
        return change()
    except SystemExit:
        if callable(before):
            before(signal.SIGTERM, None)  # Ray's handler ran
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _supervise(folder: str) -> subprocess.Popen[bytes]:
    """Start the supervisor, in a session of its own: Ctrl-C is for the run."""
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", supervisor.__file__, folder, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextlib.contextmanager
def _marked(folder: str) -> Iterator[None]:
    """What is started now has the folder in its environment, so that the supervisor knows it."""
    os.environ[supervisor.MARK] = folder
    try:
        yield
    finally:
        del os.environ[supervisor.MARK]


@contextlib.contextmanager
def _without_input() -> Iterator[None]:
    """What is started now, and what that starts, has nothing to read from.

    Ray's workers stand in the background of the run's terminal. A program there that reads from the terminal,
    or changes how it reads, as `ffmpeg` does, is stopped by the system with the worker that started it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # the run itself has no input
            kept = os.dup(0)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, nothing)
        os.dup2(nothing, 0)
        yield


@contextlib.contextmanager
def _lean_node(*, with_worker_logs: bool) -> Iterator[None]:
    """Let `ray.init` start only what runs workers, and what forwards their logs if those are wanted.

    Ray has no option for it: `include_dashboard=False` still starts the dashboard's program, without pages.
    Methods that a later Ray names otherwise are not left out then, and nothing else changes.
    """
    from ray._private import node

    lean: dict[str, Any] = {"start_api_server": _no_dashboard, "start_monitor": _nothing}
    if not with_worker_logs:
        lean["start_log_monitor"] = _nothing
    before = node.Node
    node.Node = type("LeanNode", (node.Node,), lean)
    try:
        yield
    finally:
        node.Node = before


def _no_dashboard(node: Any, **_: object) -> None:
    node._webui_url = None  # what Ray notes there after it started one


def _nothing(_: object) -> None:
    pass
