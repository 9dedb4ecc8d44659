"""Which request is next, and what follows when the worker that had it dies. Knows no Ray.

    schedule = Schedule(tasks, ledger, max_kills, progress)
    while not schedule.is_over:
        if schedule.has_next:
            request = schedule.take(num_to_risk=2, node_id=worker.node_id)
        schedule.done(request, value, result)       # or .died(request, why), or .put_back(request)

A worker that dies names its unit, not the culprit. The unit's sources therefore become suspects: each is
a request of its own, which any free worker takes while the others go on with whole units. What kills the
worker that has it alone `max_kills` times is failed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from curation.errors import PoisonSource
from curation.execution.driver.requests import PendingSegments, Request, Retry, requests_of
from curation.execution.plan import Task
from curation.execution.progress import ProgressListener
from curation.execution.worker.metrics import Metrics
from curation.ledger.unit_state import PROBE
from curation.records import Source


class TaskLedger(Protocol):
    """What is read and written for tasks whose workers die."""

    def uris(self, task: Task) -> Mapping[str, str]:
        """Source id -> URI of the sources of a task, in order."""

    def commit_probed(self, task: Task, sources: list[Source]) -> None:
        """Write what probing found."""

    def blame(self, task: Task) -> None:
        """Fail the task's only source."""


class Schedule:
    """The requests of a pass: those waiting, the suspects, and how many are under way.

    Attributes:
        metrics: What was measured.
    """

    def __init__(
        self, tasks: Sequence[Task], ledger: TaskLedger, max_kills: int, progress: ProgressListener
    ) -> None:
        self.metrics = Metrics()
        self._ledger = ledger
        self._max_kills = max_kills
        self._progress = progress
        self._waiting = deque(request for task in tasks for request in requests_of(task))
        self._suspects: deque[Request] = deque()
        self._num_running = 0
        self._num_ended = 0
        self._num_suspects_running = 0
        self._kills: Counter[str] = Counter()
        self._segments = PendingSegments()

    @property
    def num_open(self) -> int:
        """Requests that wait or are under way."""
        return len(self._waiting) + len(self._suspects) + self._num_running

    @property
    def num_requests(self) -> int:
        """All requests that are known by now, those that have ended among them."""
        return self._num_ended + self.num_open

    @property
    def has_next(self) -> bool:
        """Whether a request waits."""
        return bool(self._waiting or self._suspects)

    @property
    def is_over(self) -> bool:
        """Whether everything has been done."""
        return self.num_open == 0

    def take(self, num_to_risk: int, node_id: str = "") -> Request:
        """The next request for a worker of a node, which counts as under way from now on; only if `has_next`.

        Suspects come first, but while there is other work only `num_to_risk` workers have one at a time.
        """
        may_risk = self._num_suspects_running < num_to_risk or not self._waiting
        if self._suspects and may_risk:
            request = self._suspects.popleft()
        else:
            place = self._place_for(node_id)
            request = self._waiting[place]
            del self._waiting[place]
        self._num_running += 1
        self._num_suspects_running += request.retry is not None
        return request

    def done(self, request: Request, value: Any, result: Any = None) -> None:
        """A call has ended with a value: `Done`, or the probed source; `result` refers to a segment's."""
        self._leave(request)
        if request.probes is not None:
            self._keep_probed(request, value)
            return
        self.metrics.add(value.metrics)
        self._progress.measured(value.metrics)
        self._put_first(request for task in value.follow_ups for request in requests_of(task))
        if request.segment is None:
            self._finish(request, num_open=sum(task.num_sources for task in value.follow_ups))
        else:
            self._segments.add(request, result)
            self._next_segments()

    def put_back(self, request: Request) -> None:
        """A call has ended for a reason that has nothing to do with the request: make it again."""
        self._leave(request)
        if self._segments.wants(request):
            self._num_ended -= 1
            (self._suspects if request.retry else self._waiting).appendleft(request)

    def lost(self, request: Request) -> None:
        """What a call was given is gone with its node: make it again."""
        if not request.results:
            self.put_back(request)
            return
        self._leave(request)
        unit = request.task.unit
        self._progress.say(f"segments of unit {unit} were lost with their node; processing them again")
        self._segments.restart(request.task)
        self._next_segments()

    def died(self, request: Request, why: str) -> None:
        """The worker that had the request died."""
        self._leave(request)
        if not self._segments.wants(request):
            return
        if not request.is_single:
            unit = request.task.unit
            self._progress.say(f"a worker died on unit {unit} ({why}); trying its sources one by one")
            self._try_singly(Retry(request.task))
            return
        uri = self._uri(request)
        self._kills[uri] += 1
        self._progress.say(f"{uri} killed its worker ({why})")
        if self._kills[uri] < self._max_kills:
            self._suspects.append(replace(request, retry=request.retry or Retry(request.task, 1)))
        else:
            self._give_up(request)

    def _leave(self, request: Request) -> None:
        self._num_running -= 1
        self._num_ended += 1
        self._num_suspects_running -= request.retry is not None

    def _next_segments(self) -> None:
        self._put_first(self._segments.next_requests())

    def _put_first(self, requests: Iterable[Request]) -> None:
        self._waiting.extendleft(reversed(list(requests)))

    def _place_for(self, node_id: str) -> int:
        """Where the next request for a node stands: the first whose video no other node holds a copy of.

        What others could do without fetching it again is done here only when nothing else is left.
        """
        copies = (request.task.copy for request in self._waiting)
        places = (place for place, copy in enumerate(copies) if copy is None or copy.node_id == node_id)
        return next(places, 0)

    def _uri(self, request: Request) -> str:
        """The only source of a request."""
        if request.probes is not None:
            return request.probes.uri
        if request.task.sources:
            return request.task.sources[0].uri
        (uri,) = self._ledger.uris(request.task).values()
        return uri

    def _try_singly(self, retry: Retry) -> None:
        """Queue the sources of a task one by one: to be probed where they are not yet, else measured."""
        task = retry.task
        if task.sources:
            singles = [Request(task, probes=source, retry=retry) for source in task.sources]
        else:
            alone = [replace(task, only=frozenset([source_id])) for source_id in self._ledger.uris(task)]
            singles = [Request(single, retry=retry) for single in alone]
        retry.num_open = len(singles)
        self._suspects.extend(singles)
        if not singles:
            self._progress.advance(task.num_sources)

    def _give_up(self, request: Request) -> None:
        """Fail the only source of a request."""
        if request.probes is not None:
            error = "killed the worker that read its header"
            failed = replace(request.probes, error_type=PoisonSource.__name__, error=error)
            self._keep_probed(request, failed)
            return
        self._ledger.blame(request.task)
        if request.is_segment:
            self._segments.give_up(request.task)
            self._waiting = deque(filter(self._segments.wants, self._waiting))
            self._suspects = deque(filter(self._segments.wants, self._suspects))
        self._finish(request)

    def _keep_probed(self, request: Request, probed: Source) -> None:
        self.metrics.record(PROBE, rows=1, failed=int(not probed.ok))
        if request.retry is not None:
            request.retry.probed[probed.source_id] = probed
        self._finish(request)

    def _finish(self, request: Request, num_open: int = 0) -> None:
        """A request is through; with the last of a task, the task is, or its sources are probed.

        `num_open` of its sources have been left to others.
        """
        retry = request.retry
        if retry is None:
            self._progress.advance(request.task.num_sources - num_open)
            return
        retry.num_open -= 1
        if retry.num_open:
            return
        task = retry.task
        if retry.probed:
            self._ledger.commit_probed(task, [retry.probed[source.source_id] for source in task.sources])
        if retry.probed and task.phase == "filter":
            self._try_singly(Retry(replace(task, sources=())))
        else:
            self._progress.advance(task.num_sources)
