"""How many workers there were in a pass, how long, and on which nodes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Attendance:
    """The workers of a pass that have started, counted now and then.

    Attributes:
        most: The most at a time.
        worker_s: Seconds of all of them together.
        most_by_node: Node id -> the most that the node had at a time.
    """

    most: int = 0
    worker_s: float = 0.0
    most_by_node: Counter[str] = field(default_factory=Counter)
    _counted_at: float = field(default_factory=time.monotonic)

    def count(self, node_ids: Iterable[str]) -> None:
        """Note the workers that there are now, by the nodes they are on."""
        now, by_node = time.monotonic(), Counter(node_ids)
        self.most = max(self.most, by_node.total())
        self.worker_s += by_node.total() * (now - self._counted_at)
        self.most_by_node |= by_node
        self._counted_at = now
