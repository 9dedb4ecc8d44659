"""Runs a command that must not outlive whoever started this: python supervisor.py COMMAND...

The starter holds the other end of this program's standard input. When that closes, for whatever
reason, SIGKILL of the starter included, the command and all its children are ended; when the command ends by
itself, what it left behind is. Stands alone, so that any Python can run it.

Two processes: the first one waits for the second, which supervises. Ray kills the direct children of an actor
that ends, at once and without the children of these; then the second one still sees the input close.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 3.0
"""A caption server has nothing to save; it takes 1.6 s to end in order."""
POLL_S = 0.2


def main(command: list[str]) -> int:
    """Run the command; its exit code, or 0 if it was ended on purpose."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    second = os.fork()
    return os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) if second else _supervise(command)


def _supervise(command: list[str]) -> int:
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")
    while process.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if readable and not os.read(sys.stdin.fileno(), 4096):
            _end(process)
            return 0
    _signal(process, signal.SIGKILL)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    _signal(process, signal.SIGTERM)
    give_up_at = time.monotonic() + GRACE_S
    while process.poll() is None and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To the command's process group: a server's engine is a process of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
