"""The model workers of a pass: started before it, watched during it, gone after it.

    with ModelPools(pipeline, placements, services, progress, ...) as models:
        pool.do(tasks, models)

Ray counts a part of a card for each worker, only so that no two first ones share one. How many do share it
follows from the memory that the first was seen to use. One that dies is replaced. The call that it was busy
with is told so, and the driver tries its unit's sources one by one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from curation.errors import DeviceMemoryFault, EnvironmentFault, WorkerError
from curation.execution.cluster.placement import Placement, Seat, take_seat
from curation.execution.cluster.processes import WorkerProcess
from curation.execution.cluster.results import Died
from curation.execution.cluster.watch import ClusterState
from curation.execution.models.actor import model_actor
from curation.execution.models.client import ModelRoute, ModelRoutes
from curation.execution.models.groups import CARD_SHARE, ModelGroup, num_cards
from curation.execution.models.model_worker import ModelUse
from curation.execution.models.notes import take_note
from curation.execution.worker.metrics import PoolMetrics
from curation.execution.worker.overlap import MAX_CALLS

if TYPE_CHECKING:
    from curation.execution.progress import ProgressListener
    from curation.pipeline import Pipeline

CHECK_EVERY_S = 0.25
MAX_DEATHS = 3
"""A group whose workers die this often without having measured anything is given up."""
END_TIMEOUT_S = 10.0
"""For the last word of a worker, and for its process to go."""
SECOND_SHARE = 0.49
"""The most that Ray can count for a second one."""
STORE_FRACTION = 0.6
"""Part of Ray's object store that calls may fill."""
SAFE_FRACTION = 0.9
"""Part of a card's memory that its workers may be expected to use."""


class ModelWorkers(Protocol):
    """The model workers of a pass, as the driver sees them."""

    def routes(self) -> ModelRoutes:
        """Whom decode workers can ask now; it goes with every call of one."""

    def check(self) -> None:
        """Look after the workers. Called in every round of the driver.

        Raises:
            EnvironmentFault: the pass can't go on.
        """

    def relieve(self, fault: DeviceMemoryFault) -> bool:
        """Have fewer workers on each GPU; whether the call that met this is worth another try."""


class NoModelWorkers:
    """Where decode workers measure everything."""

    def routes(self) -> ModelRoutes:
        """None."""
        return ModelRoutes()

    def check(self) -> None:
        """Nothing is to be looked after."""

    def relieve(self, _: DeviceMemoryFault) -> bool:
        """Nobody can make room."""
        return False


@dataclass
class _WatchedWorker:
    """One model worker.

    Attributes:
        name: Under which it notes that it has begun to measure.
        use: What it had done when it was last asked.
        node_id: Where it runs, once it is known.
        is_retired: Whether it is to answer no further calls.
        is_second: Whether it shares its card with an earlier one.
    """

    group: ModelGroup
    process: WorkerProcess
    seat: Seat
    name: str
    is_second: bool = False
    is_retired: bool = False
    use: ModelUse = field(default_factory=ModelUse)
    node_id: str = ""
    query: Any = None


class ModelPools:
    """The model workers of one pass."""

    def __init__(
        self,
        pipeline: Pipeline,
        placements: Mapping[ModelGroup, Placement],
        services: Mapping[str, Mapping[str, str]],
        progress: ProgressListener,
        *,
        device: Literal["cpu", "cuda"],
        max_bytes: int,
        ask_cluster: Callable[[], ClusterState] = ClusterState,
    ) -> None:
        """`max_bytes` is what each decode worker may have sent without an answer."""
        self._pipeline = pipeline
        self._placements = placements
        self._services = services
        self._progress = progress
        self._device = device
        self._max_bytes = max_bytes
        self._ask_cluster = ask_cluster
        self._members: list[_WatchedWorker] = []
        self._deaths: dict[str, int] = {}
        self._may_grow = device == "cuda" and pipeline.config.run.model_workers is None
        self._checked_at = 0.0
        self.metrics: dict[str, PoolMetrics] = {}

    def num_cards(self, name: str) -> float:
        """GPUs that the workers of a group hold."""
        return sum(
            num_cards(placement) for group, placement in self._placements.items() if group.name == name
        )

    def __enter__(self) -> Self:
        # First those for whole cards that share them. While they load they look how much they may fill, and
        # vLLM gives up if somebody else's part changes meanwhile.
        in_order = sorted(self._placements.items(), key=lambda item: item[1].gpu_fraction == 1)
        with ExitStack() as stack:
            stack.push(self)
            for group, placement in in_order:
                for _ in range(placement.num_workers):
                    self._add(group, take_seat(placement), placement)
                if placement.gpu_fraction < 1:
                    self._wait_until_loaded(group)
            stack.pop_all()
        return self

    def _wait_until_loaded(self, group: ModelGroup) -> None:
        while any(not member.use.load_s for member in self._members if member.group == group):
            self.check()
            time.sleep(CHECK_EVERY_S)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """End all of them, and wait until the GPUs are free; after an error, end them without a word."""
        give_up_at = time.monotonic() + END_TIMEOUT_S
        if error is None:
            self._take_last_words(give_up_at)
        for member in self._members:
            member.process.kill("the pass is over")
        for member in self._members:
            if error is None:
                _wait_until_gone(member.process, give_up_at)
            member.seat.leave()
        self._members.clear()

    def routes(self) -> ModelRoutes:
        """Whom decode workers can ask now.

        A group's workers that are starting are among them only while all are: one that replaces another may
        have to wait for a card.
        """
        by_step: dict[str, list[ModelRoute]] = {}
        started = {member.group for member in self._members if not member.process.is_starting}
        for member in self._members:
            if member.process.is_starting and member.group in started:
                continue
            route = ModelRoute(member.process.actor, member.group.name, member.node_id)
            for key in () if member.is_retired else member.group.keys:
                by_step.setdefault(key, []).append(route)
        return ModelRoutes(by_step, self._max_bytes)

    def check(self) -> None:
        """Look after the workers: replace the dead, end the silent, add where a card has room.

        Raises:
            EnvironmentFault: one can't load its models, or they keep dying.
        """
        if time.monotonic() - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = time.monotonic()
        for member in list(self._members):
            self._look_at(member)
        if self._may_grow:
            self._grow()

    def relieve(self, fault: DeviceMemoryFault) -> bool:
        """Have fewer workers on each card; whether that is possible, and the call worth another try."""
        self._may_grow = False
        seconds = [member for member in self._members if member.is_second]
        for member in seconds:
            if not member.is_retired:
                self._progress.say(f"a GPU is full: its second {member.group.name} worker ends ({fault})")
                member.is_retired = True
                member.process.actor.end.options(concurrency_group="measure").remote()
        return bool(seconds)

    def _add(self, group: ModelGroup, seat: Seat, placement: Placement, *, is_second: bool = False) -> None:
        settings = self._pipeline.config.run
        # Once one has died, calls go one by one, so that only the one that kills a worker is blamed.
        num_calls = 1 if self._deaths.get(group.name) else group.resources.concurrency
        name = uuid.uuid4().hex
        actor = (
            model_actor(num_calls)
            .options(**seat.options)
            .remote(self._pipeline, group.keys, self._device, self._services, placement, name)
        )
        process = WorkerProcess(
            actor, start_timeout_s=settings.start_timeout_s, stall_timeout_s=settings.stall_timeout_s
        )
        process.call([actor.work.remote()])
        self._members.append(_WatchedWorker(group, process, seat, name, is_second))
        number = sum(member.group == group for member in self._members)
        pool = self.metrics.setdefault(group.name, PoolMetrics())
        pool.num_workers = max(pool.num_workers, number)

    def _look_at(self, member: _WatchedWorker) -> None:
        process = member.process
        process.look()
        self._ask_use(member)
        why = process.complaint()
        if why and self._may_wait(member):
            process.start_over()
        elif why:
            self._progress.say(f"the model worker of {member.group.title}: {why}; ending it")
            process.kill(why)
        if not process.is_done:
            return
        try:
            process.finish()
        except (Died, WorkerError) as died:
            process.kill(str(died))  # one whose model is broken still lives, and holds its GPU
            self._replace(member, died)
        else:
            self._remove(member)  # it has retired

    def _may_wait(self, member: _WatchedWorker) -> bool:
        """Whether no node has a card for a worker, while others of its group work."""
        others = [other for other in self._members if other.group == member.group]
        if not member.process.is_starting or all(other.process.is_starting for other in others):
            return False
        return self._ask_cluster().is_unplaced(member.process.actor)

    def _replace(self, member: _WatchedWorker, died: Died | WorkerError) -> None:
        self._remove(member)
        if member.is_retired:
            return
        if isinstance(died, Died) and died.with_node:
            self._progress.say(f"lost a model worker of {member.group.title}: {died}")
        else:
            self._count_death(member, died)
        if not member.is_second:
            placement = self._placements[member.group]
            # Where its card is gone, it waits for another one, and the other workers go on.
            self._add(member.group, take_seat(placement, timeout_s=None), placement)

    def _count_death(self, member: _WatchedWorker, died: Died | WorkerError) -> None:
        """Note that a worker died.

        Raises:
            EnvironmentFault: too many did before they had measured anything.
        """
        name = member.group.name
        # What it was asked is told to the driver by the decode workers that wait for it.
        self._deaths[name] = 1 if take_note(member.name) else self._deaths.get(name, 0) + 1
        if self._deaths[name] >= MAX_DEATHS:
            raise EnvironmentFault(
                f"the model workers of {member.group.title} died {MAX_DEATHS} times before they had measured "
                f"anything ({died})"
            )
        self._progress.say(f"the model worker of {member.group.title} died ({died}); starting another")

    def _remove(self, member: _WatchedWorker) -> None:
        self._members.remove(member)
        self._count(member)
        member.seat.leave()

    def _take_last_words(self, give_up_at: float) -> None:
        import ray

        for member in self._members:
            member.process.actor.end.remote()
        for member in self._members:
            process = member.process
            ray.wait(process.references, timeout=max(0.0, give_up_at - time.monotonic()))
            if process.is_done:
                with suppress(Died, EnvironmentFault, WorkerError):
                    member.use = process.finish()
            self._count(member)
            take_note(member.name)

    def _ask_use(self, member: _WatchedWorker) -> None:
        """Ask what it has done, and take the answer to the last such question."""
        import ray

        if member.query is None:
            member.query = member.process.actor.describe.remote()
        elif ray.wait([member.query], timeout=0)[0]:
            with suppress(ray.exceptions.RayError):
                member.use, member.node_id = ray.get(member.query)
            member.query = None

    def _count(self, member: _WatchedWorker) -> None:
        use, pool = member.use, self.metrics[member.group.name]
        memory = use.memory.peak_bytes if use.memory else 0
        pool.add(
            PoolMetrics(
                load_s=use.load_s,
                busy_s=use.busy_s,
                idle_s=use.idle_s,
                num_calls=use.num_calls,
                num_samples=use.num_samples,
                peak_memory_bytes=memory,
            )
        )

    def _grow(self) -> None:
        """A second worker on every card that has room for one more like the first."""
        for group, placement in self._placements.items():
            first = [member for member in self._members if member.group == group]
            if placement.num_gpus != CARD_SHARE or any(m.is_second for m in first):
                continue
            fractions = [_memory_fraction(member) for member in first]
            # Not before each has measured something: weights alone say little.
            if any(fraction is None for fraction in fractions):
                continue
            largest = max((fraction for fraction in fractions if fraction is not None), default=1.0)
            if 2 * largest > SAFE_FRACTION:
                continue
            share = replace(placement, num_gpus=min(SECOND_SHARE, max(0.01, round(largest, 2))))
            for _ in first:
                self._add(group, take_seat(share), placement, is_second=True)


def _wait_until_gone(process: WorkerProcess, give_up_at: float) -> None:
    """Wait until a process that was killed does not answer any more."""
    import ray

    with suppress(ray.exceptions.RayError):
        while time.monotonic() < give_up_at:
            ray.get(process.actor.beat.remote(), timeout=max(0.1, give_up_at - time.monotonic()))


def bytes_in_flight(max_held_bytes: int, num_decode_workers: int) -> int:
    """Bytes that each decode worker may have sent without an answer, so that Ray's object store holds all.

    `max_held_bytes` is what a decode worker holds decoded, which bounds its calls.

    Raises:
        EnvironmentFault: there is no room for one call of each.
    """
    import ray

    store_bytes = ray.cluster_resources().get("object_store_memory", 0.0)
    each = int(STORE_FRACTION * store_bytes / num_decode_workers)
    largest = max_held_bytes // (1 + MAX_CALLS)
    if each < largest:
        raise EnvironmentFault(
            f"Ray's object store ({store_bytes / 1e9:.1f} GB) has no room for what {num_decode_workers} "
            f"workers send to model workers, up to {largest / 1e6:.0f} MB each; set run.max_held_bytes to "
            f"{each * (1 + MAX_CALLS)} or less, or run fewer workers"
        )
    return each


def _memory_fraction(member: _WatchedWorker) -> float | None:
    """The part of its card's memory that a worker has used; None before it has measured anything."""
    memory = member.use.memory
    if memory is None or not member.use.num_calls:
        return None
    return memory.peak_bytes / memory.total_bytes
