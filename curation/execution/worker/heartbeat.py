"""What a worker tells the watchdog: which source it works on, and when it last made progress."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Heartbeat:
    """The current source, and the time of the last progress on it.

    Attributes:
        uri: The source; empty while the models are loaded.
        progressed_at: `time.monotonic()` at the last progress.
    """

    uri: str = ""
    progressed_at: float = field(default_factory=time.monotonic)

    def renew(self, uri: str | None = None) -> None:
        """Record progress; with `uri`, that the worker has come to this source."""
        self.uri = self.uri if uri is None else uri
        self.progressed_at = time.monotonic()
