"""Patience with a bucket: requests are tried again while that may help, for a limited time.

    persistently("s3://photos/a.jpg", "s3", lambda: store.get("a.jpg"))

This is the only layer that tries again, but for listings and the parts of large objects, which obstore tries
again one by one with the same limits (`retry_config`). Attempts are apart by exponential back-off with full
jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) and a low cap, so that a
server which comes back is used at once.

The environment variable CURATION_STORAGE_DEADLINE_S says for how many seconds a request may go without
success, by default 120; then it is a StorageError, and the run stops.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from curation.errors import ConfigError, StorageError, WriteConflict
from curation.storage.buckets.faults import Fault, Kind, fault_of

DEADLINE = "CURATION_STORAGE_DEADLINE_S"
DEFAULT_DEADLINE_S = 120.0
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 3.0

T = TypeVar("T")


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


def retry_config(limit_s: float | None) -> dict[str, Any]:
    """Retries of obstore itself: within this many seconds, or None for none at all."""
    if limit_s is None:
        return {"max_retries": 0}
    backoff = {
        "init_backoff": timedelta(seconds=FIRST_BACKOFF_S),
        "max_backoff": timedelta(seconds=MAX_BACKOFF_S),
    }
    # The time is the limit, not the number.
    return {"max_retries": 1_000_000, "retry_timeout": timedelta(seconds=limit_s), "backoff": backoff}


class WrongAnswer(Exception):
    """An answer came whole, and is not what was asked for."""


class NotSupported(StorageError):
    """The store does not know what was asked for."""


class OutOfRange(StorageError):
    """The object ends before the range that was asked for."""


class UnreadableKey(StorageError):
    """obstore refuses a key.

    Attributes:
        key: Which one.
    """

    def __init__(self, message: str = "", *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


_ERRORS = {Kind.UNSUPPORTED: NotSupported, Kind.OUT_OF_RANGE: OutOfRange}


_REFUSED = re.compile(r'Path "(.*?)"(?: contained|: Encountered)', re.DOTALL)


def _unreadable(url: str, error: Exception) -> UnreadableKey:
    found = _REFUSED.search(str(error))
    key = found[1] if found else ""
    return UnreadableKey(f"{url}: the key {key!r} can't be read; rename that object", key=key)


class Patience:
    """The time that is left for one request, and the back-off between attempts."""

    def __init__(self, limit_s: float | None = None) -> None:
        """`limit_s` counts from now; None takes `deadline_s`."""
        self._limit_s = deadline_s() if limit_s is None else limit_s
        self._began = time.monotonic()
        self._num_failed = 0

    def wait(self, url: str, fault: Fault) -> None:
        """Wait until the next attempt.

        Raises:
            StorageError: the time is up.
        """
        self._num_failed += 1
        waited_s = time.monotonic() - self._began
        left_s = self._limit_s - waited_s
        if left_s <= 0:
            raise StorageError(f"{url}: {fault} (tried for {waited_s:.0f} s)")
        longest_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._num_failed, 30))
        time.sleep(min(random.uniform(0, longest_s), left_s))


def persistently(
    url: str,
    scheme: str,
    attempt: Callable[[], T],
    *,
    limit_s: float | None = None,
    renew_credentials: Callable[[], None] | None = None,
    on_fault: Callable[[Fault], None] | None = None,
) -> T:
    """The result of a request, which is tried again while that may help.

    Args:
        url: What is asked for, as people write it.
        scheme: Kind of provider.
        attempt: Makes the request once.
        limit_s: As `Patience` takes it.
        renew_credentials: Called once before another attempt where the credentials have expired.
        on_fault: Told of each failed attempt.

    Raises:
        FileNotFoundError: there is no such object.
        WriteConflict: the object is not of the version that was asked for.
        UnreadableKey: obstore refuses the key, or that of an object in a listing.
        StorageError: all else, in one sentence.
    """
    import obstore  # noqa: F401  whole, before another thread that imports it has got as far as its parts
    from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PreconditionError

    patience = Patience(limit_s)
    may_renew = renew_credentials is not None
    while True:
        try:
            return attempt()
        except WrongAnswer as error:
            fault = Fault(str(error), Kind.TRANSIENT)
        except InvalidPathError as error:
            raise _unreadable(url, error) from None
        except (BaseError, OSError, ValueError) as error:
            fault = fault_of(error, scheme)
            if isinstance(error, AlreadyExistsError | PreconditionError) and fault.kind is not Kind.TRANSIENT:
                raise WriteConflict(f"{url} was written by someone else") from None
            if isinstance(error, FileNotFoundError) and fault.kind is not Kind.NO_BUCKET:
                raise FileNotFoundError(url) from None
        if on_fault is not None:
            on_fault(fault)
        if fault.kind is Kind.EXPIRED and may_renew and renew_credentials is not None:
            may_renew = False
            renew_credentials()
        elif fault.kind is Kind.TRANSIENT:
            patience.wait(url, fault)
        else:
            raise _ERRORS.get(fault.kind, StorageError)(f"{url}: {fault}") from None
