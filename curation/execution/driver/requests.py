"""What a worker is asked for: a task, one of its sources, or a segment of a long video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from curation.execution.plan import Task
from curation.records import Source


@dataclass
class Retry:
    """A task whose worker died, done again source by source.

    Attributes:
        task: The task.
        num_open: How many of its sources are still to be done.
        probed: Where sources are only probed: what is known of each by now, by its id.
    """

    task: Task
    num_open: int = 0
    probed: dict[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One call of a worker.

    Attributes:
        task: What it is about.
        segment: The number of the task's segment to process.
        results: References to the results of all segments, which are to be merged.
        probes: The only source to probe, of a task whose worker died.
        retry: The task's retry that the request belongs to.
    """

    task: Task
    segment: int | None = None
    results: tuple[Any, ...] = ()
    probes: Source | None = None
    retry: Retry | None = field(default=None, compare=False)

    @property
    def is_single(self) -> bool:
        """Whether only one source can be to blame if the worker dies."""
        task = self.task
        has_one = task.only is not None and len(task.only) == 1
        return has_one or self.probes is not None or task.phase == "list"

    @property
    def is_segment(self) -> bool:
        """Whether it is about segments of a long video, be it one of them or all that are to be merged."""
        return self.segment is not None or bool(self.results)

    def start(self, worker: Any, routes: Any) -> list[Any]:
        """Call the worker: the reference to what it returns, and to the result if it processes a segment.

        `routes` says which model workers it can ask.
        """
        if self.probes is not None:
            return [worker.probe.remote(self.probes)]
        if self.results:
            return [worker.merge.remote(self.task, routes, *self.results)]
        if self.segment is not None:
            metrics, result = worker.process_segment.remote(self.task, routes, self.segment)
            return [metrics, result]
        return [worker.work.remote(self.task, routes)]


def requests_of(task: Task) -> list[Request]:
    """The first requests of a task."""
    return [Request(task, number) for number in range(len(task.segments))] or [Request(task)]


class PendingSegments:
    """Long videos whose segments are being processed. Holds references: results stay in Ray's store."""

    def __init__(self) -> None:
        self._results: dict[Task, dict[int, Any]] = {}
        self._next: list[Request] = []
        self._given_up: set[Task] = set()

    def add(self, request: Request, result: Any) -> None:
        """Keep the reference to the result of a segment."""
        if request.segment is not None and self.wants(request):
            found = self._results.setdefault(request.task, {})
            found[request.segment] = result
            if len(found) == len(request.task.segments):
                in_order = tuple(found[number] for number in sorted(found))
                self._next.append(Request(request.task, results=in_order))
                del self._results[request.task]

    def restart(self, task: Task) -> None:
        """Results were lost: every segment is to be processed again."""
        self._next += requests_of(task)

    def next_requests(self) -> list[Request]:
        """The merges that have become possible, and the segments to process again; each is returned once."""
        found, self._next = self._next, []
        return found

    def give_up(self, task: Task) -> None:
        """One segment killed its workers: the others are not needed."""
        self._given_up.add(task)
        self._results.pop(task, None)

    def wants(self, request: Request) -> bool:
        """Whether the request is still needed."""
        return request.task not in self._given_up
