"""How a command is stopped: Ctrl-C and SIGTERM end it within seconds, whatever it is doing.

    with StopSignals() as stop:
        ...
    sys.exit(stop.exit_code or 0)

The first signal raises KeyboardInterrupt, so that the command lets go of what it holds in order. A second
one, or `LIMIT_S` after the first, ends the process as it stands; the processes that it had started are then
ended by their supervisors.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

LIMIT_S = 3.5
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = "stopped; what was measured is kept, and the same command goes on from there"
_DONE = 0
_SHOW_CURSOR = "\x1b[?25h"


class StopSignals:
    """Handles SIGINT and SIGTERM while entered, in the main thread; elsewhere it does nothing.

    A thread watches for the signals as well: Python's own handlers run only when the main thread comes
    back to Python code, which may take long. And what a handler raises is lost where Python can't raise it,
    such as in a destructor or beside a fork: then the thread ends the process after `LIMIT_S`.

    Attributes:
        number: The first signal that came; None if none did.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._has_said = False
        self._stream = 2
        self._notice: Callable[[int], str] = _notice
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._watch = threading.Thread(target=self._end_in_time, daemon=True)
            self._watch.start()
            self._before = {number: signal.signal(number, self._interrupt) for number in SIGNALS}
            self._unraisable_before, sys.unraisablehook = sys.unraisablehook, self._pass_over
        return self

    def __exit__(self, *_: object) -> bool:
        """Whatever a stopped command ends with is no error. It is watched until the process is gone."""
        if self.number is not None:
            self._say()
            return True
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            sys.unraisablehook = self._unraisable_before
            signal.set_wakeup_fd(self._wakeup_before)
            os.write(self._write, bytes([_DONE]))
            self._watch.join()
            os.close(self._read)
            os.close(self._write)
        return False

    @property
    def exit_code(self) -> int | None:
        """As a shell says it: 130 after Ctrl-C, 143 after SIGTERM; None if no signal came."""
        return None if self.number is None else 128 + self.number

    def say_by(self, stream: int, notice: Callable[[int], str]) -> None:
        """Tell of a stop otherwise: `notice` gives the text for an exit code, `stream` is an open file."""
        self._stream, self._notice = stream, notice

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        """Only once, so that nothing breaks off what the first signal began."""
        if self.number is None:
            self.number = number
            raise KeyboardInterrupt

    def _pass_over(self, lost: sys.UnraisableHookArgs) -> None:
        """Print nothing of a lost stop. Ray's own handler, which it has for a moment, raises SystemExit."""
        if not issubclass(lost.exc_type, (KeyboardInterrupt, SystemExit)):
            self._unraisable_before(lost)

    def _end_in_time(self) -> None:
        first = self._next(None)
        if first == _DONE or self._next(time.monotonic() + LIMIT_S) == _DONE:
            return
        self._say()
        os._exit(128 + (first or 0))

    def _next(self, deadline: float | None) -> int | None:
        """The next signal that is ours, or `_DONE`; None after the deadline."""
        while True:
            timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._read], [], [], timeout_s)[0]:
                return None
            number = os.read(self._read, 1)[0]
            if number in (_DONE, *SIGNALS):
                return number

    def _say(self) -> None:
        """Past Python's streams, which the main thread may have locked."""
        if self._has_said:
            return
        self._has_said = True
        if sys.stdout.isatty():
            _write_if_read(1, _SHOW_CURSOR)
        _write_if_read(self._stream, self._notice(self.exit_code or 0))


def _notice(_: int) -> str:
    return f"\n{STOPPED}\n"


def _write_if_read(number: int, text: str) -> None:
    """Write to an open file, unless that would have to wait for its reader."""
    if select.select([], [number], [], 0)[1]:
        os.write(number, text.encode())
