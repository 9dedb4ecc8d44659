"""A time limit for calls of Ray that have none of their own.

resources = within(30.0, ray.cluster_resources, "the head of the Ray cluster does not answer")
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from curation.errors import CurationError, EnvironmentFault
from curation.errors.isolation import isolated

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], complaint: str) -> T:
    """The result of a call, made in a thread, which is left behind if it does not end in time.

    Raises:
        EnvironmentFault: it did not, which the complaint says with the limit; or it raised what is none of
            ours.
        CurationError: it raised that.
    """
    result: Future[T] = Future()
    threading.Thread(target=_settle, args=(result, call), daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError as error:
        raise EnvironmentFault(f"{complaint} within {seconds:g} s") from error


def _settle(result: Future[T], call: Callable[[], T]) -> None:
    try:
        with isolated(EnvironmentFault):  # Ray raises plain exceptions, too
            result.set_result(call())
    except CurationError as error:
        result.set_exception(error)
