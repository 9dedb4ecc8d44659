"""What a worker is asked for: a task, a part of a long video, or to put its parts together. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curation.execution.plan import Task
from curation.execution.worker.video_pass import Filmed


@dataclass(frozen=True)
class Job:
    """One call of a worker: a task, one of its parts, or what puts the parts together."""

    task: Task
    number: int | None = None
    filmed: tuple[Filmed, ...] = ()

    def start(self, worker: Any) -> Any:
        """Give it to a worker; the reference to what will come out."""
        if self.filmed:
            return worker.join.remote(self.task, self.filmed)
        if self.number is not None:
            return worker.film.remote(self.task, self.number)
        return worker.work.remote(self.task)


def jobs_of(task: Task) -> list[Job]:
    """What is done first for a task."""
    return [Job(task, number) for number in range(len(task.parts))] or [Job(task)]


class Films:
    """The parts of long videos that have been looked at so far."""

    def __init__(self) -> None:
        self._filmed: dict[Task, dict[int, Filmed]] = {}
        self._given_up: set[Task] = set()

    def add(self, job: Job, filmed: Filmed) -> list[Job]:
        """Note a part; once all are there, what is to be done with them."""
        found = self._filmed.setdefault(job.task, {})
        found[job.number or 0] = filmed
        if len(found) < len(job.task.parts) or job.task in self._given_up:
            return []
        parts = self._filmed.pop(job.task)
        return [Job(job.task, filmed=tuple(parts[number] for number in sorted(parts)))]

    def give_up(self, task: Task) -> None:
        """A part can't be looked at; the others are of no use."""
        self._given_up.add(task)

    def wants(self, job: Job) -> bool:
        """Whether the job is still of use."""
        return job.task not in self._given_up
