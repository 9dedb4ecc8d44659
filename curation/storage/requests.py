"""Several requests to a storage at a time, where each waits for a network.

for table in in_order(storage, read, keys):
...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from curation.storage.base import Storage

T = TypeVar("T")
R = TypeVar("R")

MAX_REQUESTS = 16
"""Made at a time; as many results are held until their turn comes."""


def in_order(storage: Storage, call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The result of a call for each item, in order: by threads ahead of the caller, unless it is a local one.

    Raises: what the calls raise, at the place of the first one that does.
    """
    if storage.is_local:
        yield from map(call, items)
        return
    waiting: deque[Future[R]] = deque()
    threads = ThreadPoolExecutor(MAX_REQUESTS)
    try:
        for item in items:
            waiting.append(threads.submit(call, item))
            if len(waiting) == MAX_REQUESTS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
