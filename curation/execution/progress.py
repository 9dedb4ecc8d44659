"""Progress of a run: bars on a terminal; elsewhere events, as lines of text or for machines.

    progress = ConsoleProgress(console)             # or LineProgress(write), which gets `Event`s
    progress.begin("filter", 12000)
    progress.advance(256)
    progress.end()

A terminal has a bar for a pass, and a line for each of its stages.
A log gets a line when a pass begins and ends, soon after its beginning, and then every half minute, whether
or not anything has been done since; below it, one for each stage.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from curation.dataset_stage import Spread
from curation.errors import CurationError
from curation.errors.redaction import redact
from curation.execution.worker.metrics import Metrics

A = TypeVar("A")
R = TypeVar("R")
LastWords = Callable[[CurationError], tuple[int, str]]
"""What is written because of an error, and the number of the open file that it is written to."""

PHASE_NAMES = {
    "list": "listing containers",
    "probe": "reading headers",
    "filter": "measuring and filtering",
    "enrich": "adding to kept samples",
    "shards": "writing shards",
}
_UNITS = {"shards": "groups"}
"""What a pass counts, if not sources: shards are written by groups of samples."""
FIRST_LINE_S = 5.0
LINE_EVERY_S = 30.0
MARK_EVERY_S = 10.0
"""How often a bar notes how far it is."""
REFRESH_HZ = 4.0
"""How often bars are drawn: a terminal far away has to keep up, too."""
BAR_WIDTH = 40
"""Most characters of a bar; in a narrow terminal it gets fewer, so that no line is folded."""
_NUM_RECENT = 10
"""The speed is that since so many lines ago: a slow start does not spoil it for ever."""

Level = Literal["info", "warning", "error"]
_STYLES = {"warning": "bold red", "error": "red"}


@dataclass(frozen=True)
class Event:
    """Something that a run tells.

    Attributes:
        name: What kind of thing, for machines, such as `progress`.
        text: The same for people.
        fields: Its facts, for machines.
    """

    name: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    level: Level = "info"


class ProgressListener(Protocol):
    """Progress listener: a run calls it as it works."""

    def say(self, message: str) -> None:
        """Print a line."""

    def warn(self, message: str) -> None:
        """Print a line that should not be overlooked."""

    def begin(self, phase: str, num_sources: int) -> None:
        """A pass over `num_sources` begins; of `shards`, so many groups of samples."""

    def advance(self, num_sources: int) -> None:
        """`num_sources` more are done."""

    def measured(self, metrics: Metrics) -> None:
        """A worker has measured so much more."""

    def end(self) -> None:
        """The pass is over, or was stopped."""

    def worker_said(self, worker: str, line: str) -> None:
        """A worker printed a line."""

    def last_words(self, error: CurationError) -> tuple[int, str]:
        """Number of an open file, and what is written there if this process has to end at once."""


def shown(spread: Spread, phase: str, progress: ProgressListener) -> Spread:
    """The same calls as those of `spread`, and a pass of its own that shows how many have been made."""

    def spread_shown(function: Callable[[A], R], arguments: Sequence[A]) -> Iterator[R]:
        progress.begin(phase, len(arguments))
        try:
            for result in spread(function, arguments):
                progress.advance(1)
                yield result
        finally:
            progress.end()

    return spread_shown


class Pace:
    """How far a pass is, and how fast it goes."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.total = total
        self.done = 0
        self._clock = clock
        self._began_at = clock()
        self._marks = deque([(self._began_at, 0)], maxlen=_NUM_RECENT)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._began_at

    @property
    def mean_rate(self) -> float:
        """Sources per second since the beginning."""
        return self.done / max(self.seconds, 1e-9)

    @property
    def rate(self) -> float:
        """Sources per second of late."""
        at, done = self._marks[0]
        return (self.done - done) / max(self._clock() - at, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at this rate; None as long as that cannot be told.

        Where nothing was done of late, such as during a long video, at the rate since the beginning.
        """
        rate = self.rate or self.mean_rate
        return (self.total - self.done) / rate if rate > 0 else None

    @property
    def seconds_since_mark(self) -> float:
        """Since the last mark."""
        return self._clock() - self._marks[-1][0]

    def mark(self) -> None:
        """Let the rate begin here, `_NUM_RECENT` marks from now."""
        self._marks.append((self._clock(), self.done))


def _on_standard_error(error: CurationError) -> tuple[int, str]:
    return sys.stderr.fileno(), f"{type(error).__name__}: {error}\n"


class LineProgress:
    """Tells the progress of a run by events."""

    def __init__(
        self,
        write: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        last_words: LastWords | None = None,
    ) -> None:
        """`write` gets each event, of `progress` in a thread; `clock` gives seconds.

        `last_words` are asked for should this process have to end at once; None: they go to standard error.
        """
        self._write = write
        self._last_words = last_words or _on_standard_error
        self._clock = clock
        self._phase = ""
        self._pace: Pace | None = None
        self._rows: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._is_over = threading.Event()

    def say(self, message: str) -> None:
        self._write(Event("message", message))

    def warn(self, message: str) -> None:
        self._write(Event("warning", message, level="warning"))

    def last_words(self, error: CurationError) -> tuple[int, str]:
        return self._last_words(error)

    def worker_said(self, worker: str, line: str) -> None:
        self._write(Event("worker_log", f"({worker}) {line}", {"worker": worker, "line": line}))

    def begin(self, phase: str, num_sources: int) -> None:
        self._phase, self._pace = phase, Pace(num_sources, self._clock)
        self._rows.clear()
        self._failed.clear()
        text = f"{PHASE_NAMES[phase]}: {num_sources} {_unit(phase)}"
        self._write(Event("pass_began", text, {"pass": phase, "total": num_sources}))
        self._is_over = threading.Event()
        threading.Thread(target=self._tell, args=(self._is_over,), name="progress", daemon=True).start()

    def advance(self, num_sources: int) -> None:
        if self._pace is not None:
            self._pace.done += num_sources

    def measured(self, metrics: Metrics) -> None:
        self._rows.update(metrics.rows)
        self._failed.update(metrics.failed)

    def end(self) -> None:
        self._is_over.set()
        pace, self._pace = self._pace, None
        if pace is None:
            return
        reached = f"{self._reached(pace)} in {_duration(pace.seconds)}, {_speed(pace.mean_rate)}"
        facts: dict[str, Any] = {"seconds": round(pace.seconds, 1), "rate": round(pace.mean_rate, 3)}
        self._tell_pass("pass_ended", pace, reached, facts)

    def report(self) -> None:
        """Tell how far the pass is."""
        pace = self._pace
        if pace is None:
            return
        rate, left_s = pace.rate, pace.left_s
        pace.mark()
        share = f" ({pace.done / pace.total:.1%})" if pace.total else ""
        text = f"{self._reached(pace)}{share} after {_duration(pace.seconds)}"
        if left_s is not None:
            text += f", {_speed(rate)}, {_duration(left_s)} left"
        facts = {"rate": round(rate, 3), "left_s": None if left_s is None else round(left_s)}
        self._tell_pass("progress", pace, text, {"seconds": round(pace.seconds, 1), **facts})

    def _reached(self, pace: Pace) -> str:
        return f"{pace.done} of {pace.total} {_unit(self._phase)}"

    def _tell_pass(self, name: str, pace: Pace, text: str, facts: dict[str, Any]) -> None:
        seconds = max(pace.seconds, 1e-9)
        steps = {
            key: {"rows": rows, "failed": self._failed[key], "rate": round(rows / seconds, 3)}
            for key, rows in [*self._rows.items()]
        }
        where = {"pass": self._phase, "done": pace.done, "total": pace.total, "steps": steps}
        self._write(Event(name, f"{PHASE_NAMES[self._phase]}: {text}", where | facts))

    def _tell(self, is_over: threading.Event) -> None:
        wait_s = FIRST_LINE_S
        while not is_over.wait(wait_s):
            self.report()
            wait_s = LINE_EVERY_S


class ConsoleProgress(LineProgress):
    """Shows the progress of a run on a console: by bars if it is a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(self._print)
        self._console = console
        self._bars: Progress | None = None
        self._stages: dict[str, TaskID] = {}

    def begin(self, phase: str, num_sources: int) -> None:
        if not self._console.is_terminal:
            super().begin(phase, num_sources)
            return
        self._pace, self._stages = Pace(num_sources), {}
        whole = Column(no_wrap=True)
        columns = (
            TextColumn("{task.description}", markup=False, table_column=whole),
            _Bar(bar_width=None, table_column=Column(max_width=BAR_WIDTH)),  # what words leave of the line
            *(column(table_column=whole) for column in (_Count, _Rate, _Left)),
        )
        self._bars = Progress(*columns, console=self._console, refresh_per_second=REFRESH_HZ)
        self._bars.add_task(PHASE_NAMES[phase], total=num_sources, pace=self._pace, unit=_unit(phase))
        self._bars.start()

    def advance(self, num_sources: int) -> None:
        super().advance(num_sources)
        if self._bars is not None:
            self._bars.advance(self._bars.task_ids[0], num_sources)

    def measured(self, metrics: Metrics) -> None:
        if self._bars is None:
            super().measured(metrics)
            return
        for key, rows in metrics.rows.items():
            if key not in self._stages:
                pace = Pace(0)
                self._stages[key] = self._bars.add_task(f"  {key}", total=None, pace=pace, failed=0)
            task = self._bars.tasks[self._stages[key]]
            task.fields["pace"].done += rows
            task.fields["failed"] += metrics.failed[key]

    def end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._pace = None
        super().end()

    def _print(self, event: Event) -> None:
        lines = [event.text, *(_of_stage(key, step) for key, step in event.fields.get("steps", {}).items())]
        self._console.print(redact("\n".join(lines)), style=_STYLES.get(event.level))


def _of_stage(key: str, step: Mapping[str, Any]) -> str:
    """How far a stage is. How many samples will come to it is not known, so only its pass has a time left."""
    failed = f", {step['failed']} failed" if step["failed"] else ""
    return f"  {key}: {step['rows']} rows{failed}, {_speed(step['rate'])}"


class _Bar(BarColumn):
    """How far the pass is; of a stage nobody knows how many samples will come to it."""

    def render(self, task: Task) -> Any:
        return Text("") if task.total is None else super().render(task)


class _Count(ProgressColumn):
    """Sources that are done, of all; of a stage its rows, and those that failed."""

    def render(self, task: Task) -> Text:
        done = task.fields["pace"].done
        if task.total is not None:
            return Text(f"{done}/{task.total:.0f} {task.fields['unit']}")
        failed = task.fields["failed"]
        return Text(f"{done} rows, {failed} failed" if failed else f"{done} rows")


class _Rate(ProgressColumn):
    """So many in a second, of late."""

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        if pace.seconds_since_mark >= MARK_EVERY_S:
            pace.mark()
        rate = pace.rate or pace.mean_rate
        return Text(_speed(rate) if rate else "")


class _Left(ProgressColumn):
    """Time since the beginning of the pass, and what the rest takes."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        pace: Pace = task.fields["pace"]
        left = "" if pace.left_s is None else f", {_duration(pace.left_s)} left"
        return Text(f"{_duration(pace.seconds)}{left}")


def _unit(phase: str) -> str:
    return _UNITS.get(phase, "sources")


def _speed(rate: float) -> str:
    """So many in a second, in three digits or all before the point."""
    return f"{rate:.0f}/s" if rate >= 1000 else f"{rate:.3g}/s"


def _duration(seconds: float) -> str:
    """A time as people say it, such as `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
