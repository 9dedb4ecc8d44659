"""What asking an engine took: answers, tokens, and the time in which it had questions."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from curation.captioner.engines.base import Answer


class Usage:
    """Counts for several threads that ask at once. The time in which more than one asks counts once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._num_asking = 0
        self._since = 0.0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a call of the engine."""
        with self._lock:
            self._settle()
            self._num_asking += 1
        try:
            yield
        finally:
            with self._lock:
                self._settle()
                self._num_asking -= 1

    def add(self, answer: Answer) -> None:
        with self._lock:
            self._counts["answers"] += 1
            self._counts["prompt_tokens"] += answer.num_prompt_tokens
            self._counts["output_tokens"] += answer.num_output_tokens

    def taken(self, *, varies: bool) -> dict[str, float]:
        """What was counted since the last call; no seconds for an engine that only looks texts up."""
        with self._lock:
            self._settle()
            found = {"engine_s": self._seconds if varies else 0.0, **self._counts}
            self._seconds = 0.0
            self._counts.clear()
        return found

    def _settle(self) -> None:
        """Count the time until now."""
        now = time.perf_counter()
        if self._num_asking:
            self._seconds += now - self._since
        self._since = now
