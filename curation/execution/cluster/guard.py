"""Ends this process with a sentence before Ray ends it without one, or where a call to Ray never returns.

    guard = Guard(progress)
    guard.close()           # Ray is not needed any more, or somebody else ends the run

Some of Ray's calls wait for the cluster's head without a time limit, and nothing in Python can break them
off; after a minute Ray ends the process. Any use of the object store of a raylet that is dead ends the
process at once. Nothing is let go of in order here: unit files are whole or absent, the supervisor ends
Ray's processes, the kernel gives up locks, and a lease goes stale.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from pathlib import Path
from typing import NoReturn

from curation.errors import EnvironmentFault
from curation.execution.cluster.watch import CLOSE_S, ENDED, ClusterWatch
from curation.execution.progress import ProgressListener

GRACE_S = 10.0
"""The run gets so long to end by itself where the head is silent; Ray would end it some seconds later."""
POLL_S = 1.0
_SHOW_CURSOR = b"\x1b[?25h"


class Guard:
    """A thread that watches the cluster as long as the run needs it."""

    def __init__(self, progress: ProgressListener) -> None:
        """`progress` knows how the sentence is to be written."""
        self._progress = progress
        self._is_closed = threading.Event()
        self._woken, self._wakes = os.pipe()
        self._cluster = ClusterWatch()
        # Here and not in the thread, which on a busy machine would come to look for it when it has ended.
        self._raylet = _handles_of_raylet(self._cluster.own_node)
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let this process go on whatever becomes of Ray. May be called again."""
        if not self._is_closed.is_set():
            self._is_closed.set()
            os.close(self._wakes)
        self._thread.join(CLOSE_S + POLL_S)

    def _watch(self) -> None:
        poll = select.poll()  # `select.select` takes no file above the 1024th
        for handle in (*self._raylet, self._woken):
            poll.register(handle, select.POLLIN)
        try:
            while not self._is_closed.is_set():
                has_ended = any(handle != self._woken for handle, _ in poll.poll(POLL_S * 1000))
                if has_ended and not self._is_closed.is_set():
                    self._end(EnvironmentFault(ENDED))
                try:
                    self._cluster.check()
                except EnvironmentFault as fault:
                    if not self._is_closed.wait(GRACE_S):
                        self._end(fault)
        finally:
            self._cluster.close()
            for handle in (*self._raylet, self._woken):
                os.close(handle)

    def _end(self, error: EnvironmentFault) -> NoReturn:
        """End this process as it stands, past Python's streams, which another thread may have locked."""
        if sys.stdout.isatty():
            os.write(1, _SHOW_CURSOR)
        stream, text = self._progress.last_words(error)
        os.write(stream, text.encode())
        os._exit(error.exit_code)


def _handles_of_raylet(node: str) -> list[int]:
    """A file that is readable once the raylet of a node has ended; none where it can't be found."""
    handles: list[int] = []
    with contextlib.suppress(OSError, AttributeError):  # not every system has files of processes
        handles += [os.pidfd_open(pid) for pid in _pids_with(f"--node_id={node}")]
    return handles


def _pids_with(argument: str) -> list[int]:
    """Processes of this machine with an argument; none without /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
