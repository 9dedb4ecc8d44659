"""What a worker is asked for: a task, a part of a long video, or to put its parts together. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curation.execution.plan import Task
from curation.execution.worker.video_pass import SegmentResult


@dataclass(frozen=True)
class Request:
    """One call of a worker: a task, one of its parts, or what puts the parts together."""

    task: Task
    number: int | None = None
    results: tuple[SegmentResult, ...] = ()

    def start(self, worker: Any) -> Any:
        """Give it to a worker; the reference to what will come out."""
        if self.results:
            return worker.merge.remote(self.task, self.results)
        if self.number is not None:
            return worker.process_segment.remote(self.task, self.number)
        return worker.work.remote(self.task)


def requests_of(task: Task) -> list[Request]:
    """What is done first for a task."""
    return [Request(task, number) for number in range(len(task.parts))] or [Request(task)]


class PendingSegments:
    """The parts of long videos that have been looked at so far."""

    def __init__(self) -> None:
        self._results: dict[Task, dict[int, SegmentResult]] = {}
        self._given_up: set[Task] = set()

    def add(self, request: Request, results: SegmentResult) -> list[Request]:
        """Note a part; once all are there, what is to be done with them."""
        found = self._results.setdefault(request.task, {})
        found[request.number or 0] = results
        if len(found) < len(request.task.parts) or request.task in self._given_up:
            return []
        parts = self._results.pop(request.task)
        return [Request(request.task, results=tuple(parts[number] for number in sorted(parts)))]

    def give_up(self, task: Task) -> None:
        """A part can't be looked at; the others are of no use."""
        self._given_up.add(task)

    def wants(self, request: Request) -> bool:
        """Whether the request is still of use."""
        return request.task not in self._given_up
