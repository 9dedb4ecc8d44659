"""How long a request to a storage behind a network is tried again, and how far apart.

    attempts = Attempts()
    while True:
        try:
            return ask()
        except OSError:
            if not attempts.wait():
                raise

Attempts are apart by exponential back-off with full jitter
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) and a low cap, so that a server
which comes back is used at once.

The environment variable CURATION_STORAGE_DEADLINE_S says for how many seconds a request may go without
success, by default 120.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from curation.errors import ConfigError, StorageError

DEADLINE = "CURATION_STORAGE_DEADLINE_S"
DEFAULT_DEADLINE_S = 120.0
START_LIMIT_S = 8.0
"""A server that is away is waited for so long at the start of a run: its address may simply be wrong."""
_LIMIT_BEHIND_ANOTHER_S = 0.5
"""The same once another one could not be reached: a command asks for all that it needs before it says so."""
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 3.0


def deadline_s() -> float:
    """For how long a request may go without success.

    Raises:
        ConfigError: the environment variable is no number of seconds.
    """
    text = os.environ.get(DEADLINE, "")
    try:
        found = float(text) if text else DEFAULT_DEADLINE_S
    except ValueError:
        found = -1.0
    if not 0 < found < float("inf"):
        raise ConfigError(f"{DEADLINE} is {text!r}; it takes a number of seconds above 0")
    return found


class FirstContact:
    """Which places have answered this process. The address of one that has not may be wrong.

    A command that somebody waits for is limited in how long it tries such a place. A worker is not, as it may
    be started while a server is away.
    """

    def __init__(self) -> None:
        self._is_limited = self._has_failed = False
        self._answered: set[str] = set()

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Limit it as long as the context lasts."""
        before = self._is_limited, self._has_failed
        self._is_limited, self._has_failed = True, False
        try:
            yield
        finally:
            self._is_limited, self._has_failed = before

    def limit_s(self, place: str) -> float:
        """For how long a request to a place may go without success because of this."""
        if not self._is_limited or place in self._answered:
            return math.inf
        return _LIMIT_BEHIND_ANOTHER_S if self._has_failed else START_LIMIT_S

    def answered(self, place: str) -> None:
        """A place has answered, whatever it was."""
        self._answered.add(place)

    def failed(self, place: str) -> None:
        """A place has not given an answer for as long as it was asked."""
        self._has_failed |= place not in self._answered


FIRST_CONTACT = FirstContact()
"""That of this process."""


class OutOfTime(StorageError):
    """A request went without success for as long as it may."""


class Attempts:
    """The attempts at one request: the time that is left for them, and the back-off between them."""

    def __init__(self, limit_s: float | None = None) -> None:
        """`limit_s` counts from now; None takes `deadline_s`."""
        self._limit_s = deadline_s() if limit_s is None else limit_s
        self._began = time.monotonic()
        self._num_failed = 0

    @property
    def tried_s(self) -> float:
        """Seconds since the first attempt."""
        return time.monotonic() - self._began

    def wait(self, asked_s: float = 0.0) -> bool:
        """Wait until the next attempt; False, at once, if the time is up.

        `asked_s` is how long the server asks to be left alone. It counts as no time without success.
        """
        self._num_failed += 1
        self._limit_s += asked_s
        left_s = self._limit_s - self.tried_s
        if left_s <= 0:
            return False
        longest_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._num_failed, 30))
        time.sleep(min(asked_s + random.uniform(0, longest_s), left_s))
        return True
