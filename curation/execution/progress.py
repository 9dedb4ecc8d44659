"""Progress of a run for people: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from curation.errors.redaction import redact

PHASE_NAMES = {
    "list": "listing containers",
    "probe": "reading headers",
    "filter": "measuring and filtering",
    "enrich": "adding to kept samples",
}
_LINE_EVERY_S = 10.0


class ProgressListener(Protocol):
    """Progress listener: a run calls it as it works."""

    def say(self, message: str) -> None:
        """Print a line."""

    def warn(self, message: str) -> None:
        """Print a line that should not be overlooked."""

    def begin(self, phase: str, num_sources: int) -> None:
        """A pass over `num_sources` begins."""

    def advance(self, num_sources: int) -> None:
        """`num_sources` more are done."""

    def end(self) -> None:
        """The pass is over, or was stopped."""


class ConsoleProgress:
    """Shows the progress of a run on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._done = self._total = 0
        self._line_at = 0.0

    def say(self, message: str) -> None:
        self._console.print(redact(message))

    def warn(self, message: str) -> None:
        self._console.print(redact(message), style="bold red")

    def begin(self, phase: str, num_sources: int) -> None:
        self._phase, self._done, self._total = PHASE_NAMES[phase], 0, num_sources
        self._line_at = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"{self._phase}: {num_sources} sources")
            return
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console)
        self._task = self._progress.add_task(self._phase, total=num_sources)
        self._progress.start()

    def advance(self, num_sources: int) -> None:
        self._done += num_sources
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, num_sources)
        elif time.monotonic() - self._line_at > _LINE_EVERY_S:
            self._line_at = time.monotonic()
            self.say(f"{self._phase}: {self._done} of {self._total} sources")

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
