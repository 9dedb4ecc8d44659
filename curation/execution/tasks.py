"""Pure functions spread over the cluster: many independent calls, their results in order.

    for result in on_cluster(square, [1, 2, 3], limit=4): ...

Unlike the work on media, which `driver` gives to long-lived workers, a call here loads no model and may be
repeated by Ray as it likes: what it writes must be the same bytes each time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from curation.errors import EnvironmentFault
from curation.stage import Spread

__all__ = ["Spread", "in_process", "on_cluster"]

A = TypeVar("A")
R = TypeVar("R")


def in_process(function: Callable[[A], R], arguments: Iterable[A]) -> Iterator[R]:
    """One call after the other, here: for little work, and for tests."""
    return map(function, arguments)


def on_cluster(function: Callable[[A], R], arguments: Iterable[A], *, limit: int) -> Iterator[R]:
    """Up to `limit` calls at a time as tasks of the connected Ray cluster, on any of its nodes.

    A task takes no CPU in Ray's accounts: the workers of a pass, which wait meanwhile, hold them.

    Raises:
        CurationError: what the function raised.
        EnvironmentFault: a call was lost again and again, as when its node runs out of memory.
    """
    import ray

    remote = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_call)
    shared = ray.put(function)
    running: deque[Any] = deque()
    for argument in arguments:
        running.append(remote.remote(shared, argument))
        if len(running) >= limit:
            yield _result(running.popleft())
    while running:
        yield _result(running.popleft())


def _call(function: Callable[[A], R], argument: A) -> R:
    return function(argument)


def _result(ref: Any) -> Any:
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise EnvironmentFault(f"a task was lost: {error}") from error
