"""What a worker tells the watchdog: which source it works on, and when it last made progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Beat:
    """One answer to the watchdog.

    Attributes:
        uri: The current source; empty before the first one.
        loading: What is being loaded at the moment, such as a step's models; empty if nothing is.
        silent_s: Seconds since the last progress.
        node_id: Where the worker runs, as Ray names it; empty where that is of no interest.
    """

    uri: str = ""
    loading: str = ""
    silent_s: float = 0.0
    node_id: str = ""


@dataclass
class Heartbeat:
    """The current source, and the time of the last progress on it.

    Attributes:
        uri: The source; empty before the first one.
        progressed_at: `time.monotonic()` at the last progress.
        loading: What is being loaded at the moment; empty if nothing is.
    """

    uri: str = ""
    progressed_at: float = field(default_factory=time.monotonic)
    loading: str = ""

    def renew(self, uri: str | None = None) -> None:
        """Record progress; with `uri`, that the worker has come to this source."""
        self.uri = self.uri if uri is None else uri
        self.progressed_at = time.monotonic()

    @contextmanager
    def load(self, what: str) -> Iterator[None]:
        """Say that the time inside goes into loading, for which the current source is not to blame."""
        self.renew()
        self.loading = what
        try:
            yield
        finally:
            self.loading = ""
            self.renew()

    def beat(self) -> Beat:
        """The answer to give now."""
        return Beat(self.uri, self.loading, time.monotonic() - self.progressed_at)
