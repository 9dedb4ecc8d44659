"""What the driver does next, and whom it blames: the schedule alone, with workers that this test plays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from curation.cli.console import console
from curation.execution.copies import Copy
from curation.execution.driver.requests import Request
from curation.execution.driver.schedule import Schedule
from curation.execution.plan import Task
from curation.execution.progress import ConsoleProgress
from curation.execution.segments import segments_of
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import Done
from curation.records import Source


def source(name: str) -> Source:
    return Source(source_id=name, uri=f"in/{name}", kind="image", size_bytes=1, etag="1")


@dataclass
class ListLedger:
    """A few units: unit -> names of its sources."""

    units: dict[int, list[str]]
    blamed: list[str] = field(default_factory=list)
    probed: dict[int, list[Source]] = field(default_factory=dict)

    def uris(self, task: Task) -> dict[str, str]:
        return {name: f"in/{name}" for name in self.units[task.unit] if not task.only or name in task.only}

    def commit_probed(self, task: Task, sources: list[Source]) -> None:
        self.probed[task.unit] = sources
        self.units[task.unit] = [source.source_id for source in sources]

    def blame(self, task: Task) -> None:
        names = [source.source_id for source in task.sources] or list(self.uris(task))
        assert len(names) == 1
        self.blamed += names


class Play:
    """A schedule, and what became of it."""

    def __init__(self, tasks: list[Task], ledger: ListLedger, max_kills: int = 2) -> None:
        self.num_advanced = 0
        self.said: list[str] = []
        self.log: list[str] = []
        progress = ConsoleProgress(console())
        progress.say = self.said.append  # type: ignore[method-assign]
        progress.advance = self._advance  # type: ignore[method-assign]
        self.ledger = ledger
        self.schedule = Schedule(tasks, ledger, max_kills, progress)

    def _advance(self, number: int) -> None:
        self.num_advanced += number

    def names(self, request: Request) -> list[str]:
        if request.probes is not None:
            return [request.probes.source_id]
        return [each.source_id for each in request.task.sources] or list(self.ledger.uris(request.task))

    def run(self, kills: Callable[[list[str]], bool], num_to_risk: int = 1) -> None:
        """Do one request after the other; the worker dies where `kills` says so."""
        while not self.schedule.is_over:
            request = self.schedule.take(num_to_risk)
            names = self.names(request)
            self.log.append(" ".join(names))
            if kills(names):
                self.schedule.died(request, "a signal")
            elif request.probes is not None:
                self.schedule.done(request, replace(request.probes, width=8, height=8))
            else:
                result = None if request.segment is None else f"result {request.segment}"
                self.schedule.done(request, Done(Metrics()), result)


def enrich(unit: int, num_sources: int) -> Task:
    return Task("enrich", unit, num_sources=num_sources)


def test_suspects_are_tried_alone_and_the_culprit_is_failed() -> None:
    play = Play([enrich(0, 3), enrich(1, 1)], ListLedger({0: ["a", "b", "c"], 1: ["d"]}))
    play.run(lambda names: "b" in names)
    assert play.log == ["a b c", "a", "b", "c", "b", "d"]
    assert play.ledger.blamed == ["b"]
    assert play.num_advanced == 4
    assert play.said == [
        "a worker died on unit 0 (a signal); trying its sources one by one",
        "in/b killed its worker (a signal)",
        "in/b killed its worker (a signal)",
    ]


def test_while_a_suspect_is_under_way_others_do_whole_units() -> None:
    play = Play([enrich(0, 2), enrich(1, 1), enrich(2, 1)], ListLedger({0: ["a", "b"], 1: ["c"], 2: ["d"]}))
    schedule = play.schedule
    schedule.died(schedule.take(1), "a signal")
    first, second, third = schedule.take(1), schedule.take(1), schedule.take(1)
    assert [play.names(request) for request in (first, second, third)] == [["a"], ["c"], ["d"]]
    fourth = schedule.take(1)  # nothing else is left
    assert play.names(fourth) == ["b"]


def test_none_is_put_at_risk_before_a_second_worker_is_up() -> None:
    play = Play([enrich(0, 2), enrich(1, 1)], ListLedger({0: ["a", "b"], 1: ["c"]}))
    play.schedule.died(play.schedule.take(1), "a signal")
    assert play.names(play.schedule.take(0)) == ["c"]


def test_what_is_put_back_is_not_counted() -> None:
    play = Play([enrich(0, 2)], ListLedger({0: ["a", "b"]}), max_kills=1)
    schedule = play.schedule
    schedule.put_back(schedule.take(1))
    schedule.died(schedule.take(1), "a signal")
    for _ in range(5):
        single = schedule.take(1)
        assert play.names(single) == ["a"]
        schedule.put_back(single)
    play.run(lambda names: False)
    assert play.ledger.blamed == []
    assert play.num_advanced == 2


def test_new_unit_is_probed_one_by_one_then_filtered_one_by_one() -> None:
    sources = [source(name) for name in ("c", "a", "b")]
    play = Play([Task("filter", 7, sources, num_sources=3)], ListLedger({7: []}))
    deaths = iter([True, False, True])  # of the unit; not while "a" is probed; once while it is filtered
    play.run(lambda names: "a" in names and next(deaths, False))
    assert play.log == ["c a b", "c", "a", "b", "c", "a", "b", "a"]
    assert play.ledger.blamed == []
    assert [each.source_id for each in play.ledger.probed[7]] == ["c", "a", "b"]
    assert all(each.width == 8 for each in play.ledger.probed[7])
    assert play.num_advanced == 3


def test_source_that_kills_whoever_probes_it_is_failed() -> None:
    play = Play([Task("probe", 7, [source("a"), source("b")], num_sources=2)], ListLedger({7: []}))
    play.run(lambda names: "a" in names)
    first, second = play.ledger.probed[7]
    assert first.error_type == "PoisonSource"
    assert second.ok
    assert play.schedule.metrics.failed["probe"] == 1
    assert play.schedule.metrics.rows["probe"] == 2
    assert play.num_advanced == 2


def test_container_that_kills_whoever_lists_it_is_failed_at_its_second_kill() -> None:
    play = Play([Task("list", 0, [source("x")], num_sources=1)], ListLedger({}))
    play.run(lambda names: True)
    assert play.log == ["x", "x"]
    assert play.ledger.blamed == ["x"]
    assert play.num_advanced == 1


def long_video() -> Task:
    segments = segments_of(30.0, 10.0)
    return Task("filter", 0, only=frozenset(["a"]), segments=segments, num_sources=1)


def test_segments_are_merged_once_all_are_there() -> None:
    play = Play([long_video()], ListLedger({0: ["a"]}))
    deaths = iter([False, True])
    play.run(lambda names: next(deaths, False))
    assert len(play.log) == 3 + 1 + 1  # one of the three is processed again, and all are merged
    assert play.ledger.blamed == []
    assert play.num_advanced == 1


def test_video_that_kills_is_failed_once_and_its_other_segments_are_dropped() -> None:
    play = Play([long_video(), enrich(1, 1)], ListLedger({0: ["a"], 1: ["b"]}))
    schedule = play.schedule
    under_way = [schedule.take(1) for _ in range(2)]
    schedule.died(under_way[0], "a signal")
    again = schedule.take(1)
    assert again.segment == 0
    schedule.died(again, "a signal")
    assert play.ledger.blamed == ["a"]
    schedule.died(under_way[1], "a signal")  # too late to be blamed again
    play.run(lambda names: False)
    assert play.log == ["b"]
    assert play.ledger.blamed == ["a"]
    assert play.num_advanced == 2


def test_segments_whose_results_are_lost_are_all_processed_again() -> None:
    play = Play([long_video()], ListLedger({0: ["a"]}))
    schedule = play.schedule
    for number in range(3):
        schedule.done(schedule.take(1), Done(Metrics()), f"result {number}")
    merge = schedule.take(1)
    assert merge.results == ("result 0", "result 1", "result 2")
    schedule.lost(merge)
    assert [schedule.take(1).segment for _ in range(3)] == [0, 1, 2]
    assert play.said == ["segments of unit 0 were lost with their node; processing them again"]


def new_unit(number: int, node_id: str) -> tuple[Task, Done]:
    """The task of a new unit of two videos, and what comes of it: one is long, and left to three segments."""
    task = Task("filter", number, (source(f"{number}a"), source(f"{number}b")), num_sources=2)
    only, copy = frozenset([f"{number}b"]), Copy(node_id, 1, 1, ())
    left = replace(task, sources=(), only=only, num_sources=1, segments=segments_of(9, 3), copy=copy)
    return task, Done(Metrics(), [left])


def test_long_videos_of_a_new_unit_are_next_and_counted_when_they_are_through() -> None:
    (first, done), (second, _) = new_unit(0, "node"), new_unit(1, "node")
    play = Play([first, second], ListLedger({0: ["0a", "0b"], 1: ["1a", "1b"]}))
    schedule = play.schedule
    assert (schedule.num_requests, schedule.num_open) == (2, 2)
    schedule.done(schedule.take(1, "node"), done)
    assert play.num_advanced == 1
    assert (schedule.num_requests, schedule.num_open) == (5, 4)
    schedule.put_back(schedule.take(1, "node"))
    assert (schedule.num_requests, schedule.num_open) == (5, 4)
    for number in range(3):
        request = schedule.take(1, "node")
        assert (request.task.unit, request.segment) == (0, number)
        schedule.done(request, Done(Metrics()), f"result {number}")
    merge = schedule.take(1, "node")
    assert merge.results == ("result 0", "result 1", "result 2")
    schedule.done(merge, Done(Metrics()))
    assert play.num_advanced == 2
    assert schedule.take(1, "node").task.unit == 1


def test_workers_of_another_node_leave_segments_to_the_node_that_has_the_video() -> None:
    (first, done), (second, _) = new_unit(0, "here"), new_unit(1, "there")
    play = Play([first, second], ListLedger({0: ["0a", "0b"], 1: ["1a", "1b"]}))
    schedule = play.schedule
    schedule.done(schedule.take(1, "here"), done)
    assert schedule.take(1, "there").task.unit == 1  # though the segments come first
    assert schedule.take(1, "here").segment == 0
    assert schedule.take(1, "there").segment == 1  # there is nothing else to do


def test_suspects_come_first_on_every_node() -> None:
    (first, done), (second, _) = new_unit(0, "here"), new_unit(1, "there")
    play = Play([first, second], ListLedger({0: ["0a", "0b"], 1: ["1a", "1b"]}))
    schedule = play.schedule
    schedule.done(schedule.take(1, "here"), done)
    schedule.died(schedule.take(1, "here"), "a signal")
    suspect = schedule.take(1, "there")
    assert suspect.segment == 0
    assert suspect.retry is not None
