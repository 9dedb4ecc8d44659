"""Pure functions spread over the cluster: many independent calls, their results in order.

    for result in on_cluster(square, [1, 2, 3], limit=lambda: 4, ...): ...

Unlike the work on media, which `driver` gives to long-lived workers, a call here loads no model and may be
repeated by Ray as it likes: what it writes must be the same bytes each time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from curation.dataset_stage import Spread
from curation.errors import EnvironmentFault
from curation.execution.cluster.results import Died, Lost, result_of

__all__ = ["Spread", "in_process", "on_cluster"]

A = TypeVar("A")
R = TypeVar("R")
POLL_S = 1.0


def in_process(function: Callable[[A], R], arguments: Iterable[A]) -> Iterator[R]:
    """One call after the other, here: for little work, and for tests."""
    return map(function, arguments)


def on_cluster(
    function: Callable[[A], R],
    arguments: Iterable[A],
    *,
    limit: Callable[[], int],
    check: Callable[[], None],
    timeout_s: float,
) -> Iterator[R]:
    """Up to `limit` calls at a time as tasks of the connected Ray cluster, on any of its nodes.

    `limit` is asked anew for each call, as the cluster may grow or shrink meanwhile. A task takes no CPU in
    Ray's accounts: the workers of a pass, which wait meanwhile, hold them. `check` is called every now and
    then while the next result is waited for, and may raise that the cluster is gone.

    Raises:
        CurationError: what the function raised.
        EnvironmentFault: a call was lost again and again, as when its node runs out of memory, or has not
            ended `timeout_s` after the result before it.
    """
    import ray

    remote = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_call)
    shared = ray.put(function)
    running: deque[Any] = deque()
    for argument in arguments:
        running.append(remote.remote(shared, argument))
        while len(running) >= limit():
            yield _result(running.popleft(), check, timeout_s)
    while running:
        yield _result(running.popleft(), check, timeout_s)


def _call(function: Callable[[A], R], argument: A) -> R:
    return function(argument)


def _result(reference: Any, check: Callable[[], None], timeout_s: float) -> Any:
    import ray

    num_polls = math.ceil(timeout_s / POLL_S)
    for _ in range(num_polls):
        check()
        if ray.wait([reference], timeout=POLL_S)[0]:
            break
    else:
        raise EnvironmentFault(f"a task has not ended for {timeout_s:.0f} s")
    try:
        return result_of(reference)
    except (Died, Lost) as error:
        raise EnvironmentFault(f"a task was lost: {error}") from error
