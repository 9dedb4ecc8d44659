"""Requests to a bucket are tried again while that may help, for a limited time.

    persistently("s3://photos/a.jpg", "s3", lambda: store.get("a.jpg"))

This is the only layer that tries again, but for listings and the parts of large objects, which obstore tries
again one by one with the same limits (`retry_config`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from curation.errors import StorageError, WriteConflict
from curation.storage.buckets.faults import Fault, Kind, fault_of
from curation.storage.object_file import OutOfRange
from curation.storage.retries import FIRST_BACKOFF_S, MAX_BACKOFF_S, Attempts, OutOfTime

T = TypeVar("T")


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
        limit_s: As `Attempts` takes it.
        renew_credentials: Called once before another attempt where the credentials have expired.
        on_fault: Told of each failed attempt.

    Raises:
        FileNotFoundError: there is no such object.
        WriteConflict: the object is not of the version that was asked for.
        UnreadableKey: obstore refuses the key, or that of an object in a listing.
        OutOfTime: nothing helped in time.
        StorageError: all else, in one sentence.
    """
    import obstore  # noqa: F401  whole, before another thread that imports it has got as far as its parts
    from obstore.exceptions import BaseError

    attempts = Attempts(limit_s)
    may_renew = renew_credentials is not None
    while True:
        try:
            return attempt()
        except WrongAnswer as error:
            fault = Fault(str(error), Kind.TRANSIENT)
        except (BaseError, OSError, ValueError) as error:
            fault = _fault_about(url, error, scheme)
        if on_fault is not None:
            on_fault(fault)
        if fault.kind is Kind.EXPIRED and may_renew and renew_credentials is not None:
            may_renew = False
            renew_credentials()
        elif fault.kind is Kind.TRANSIENT:
            if not attempts.wait():
                raise OutOfTime(f"{url}: {fault} (tried for {attempts.tried_s:.0f} s)")
        else:
            raise _ERRORS.get(fault.kind, StorageError)(f"{url}: {fault}") from None


def _fault_about(url: str, error: Exception, scheme: str) -> Fault:
    """What an error of obstore means, unless it tells something of the object.

    Raises: all but the last of what `persistently` raises.
    """
    from obstore.exceptions import AlreadyExistsError, InvalidPathError, PreconditionError

    if isinstance(error, InvalidPathError):
        raise _unreadable(url, error) from None
    fault = fault_of(error, scheme)
    if isinstance(error, AlreadyExistsError | PreconditionError) and fault.kind is not Kind.TRANSIENT:
        raise WriteConflict(f"{url} was written by someone else") from None
    if isinstance(error, FileNotFoundError) and fault.kind is not Kind.NO_BUCKET:
        raise FileNotFoundError(url) from None
    return fault
