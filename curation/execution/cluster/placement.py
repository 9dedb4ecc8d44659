"""Which GPUs of a cluster the models of a pass get, as data, and as options of Ray's actors.

    placements = place(groups_of(stages), nodes())
    seat = take_seat(placements["captions"])
    worker = ray.remote(**seat.options)(ModelWorker).remote()
    ...
    seat.leave()

A model that takes whole cards lies on one node where a node has enough of them, and else over several, in a
placement group of Ray. Models that take a part of a card get a card that the others leave free, or, where
there is none, a quarter of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from curation.errors import EnvironmentFault
from curation.execution.cluster.joining.connection import ANSWER_S
from curation.execution.cluster.limits import within
from curation.stage import Resources, Stage

SHARED_FRACTION = 0.75
"""Part of a card that a model for whole cards takes where others must share it. More than half, so that
Ray cannot put two workers of one model on one card."""
SEAT_TIMEOUT_S = 300.0
"""Seconds to wait for GPUs that are free by count, but may not have been given back yet."""


@dataclass(frozen=True)
class Node:
    """One machine of a cluster.

    Attributes:
        num_gpus: Its cards, taken ones included.
    """

    name: str
    num_gpus: int


@dataclass(frozen=True)
class Placement:
    """Where the model workers of a group run.

    Attributes:
        num_workers: How many there is room for, at most those that are wanted.
        num_gpus: GPUs of each worker itself, as Ray counts them.
        bundles: Of the placement group that each worker stands in, with one card each; the worker itself then
            takes no GPU, and the processes of its model one bundle each.
        gpu_fraction: Part of its cards' memory that a worker may fill.
    """

    num_workers: int
    num_gpus: float = 0.0
    bundles: tuple[Mapping[str, float], ...] = ()
    gpu_fraction: float = 1.0


def groups_of(stages: Iterable[Stage[Any]]) -> dict[str, Resources]:
    """What each group of model workers needs, for all its stages together."""
    groups: dict[str, Resources] = {}
    for asked in (stage.resources() for stage in stages):
        if asked.gpu or asked.apart:
            known = groups.get(asked.group, asked)
            limits = [one.max_workers for one in (known, asked) if one.max_workers is not None]
            groups[asked.group] = replace(
                known,
                gpu=known.gpu or asked.gpu,
                whole_gpus=max(known.whole_gpus, asked.whole_gpus),
                apart=known.apart or asked.apart,
                max_workers=min(limits, default=None),
                concurrency=min(known.concurrency, asked.concurrency),
            )
    return groups


def place(groups: Mapping[str, Resources], nodes: Sequence[Node]) -> dict[str, Placement]:
    """Share out the GPUs of the nodes to those groups that take whole ones, or that need no GPU to be apart.

    Groups that take parts of cards are not in the result: how many of their workers fit is measured. One
    card is kept for them if every other group then still has a worker; else they share cards.

    Raises:
        EnvironmentFault: there are fewer GPUs than a group's model spans.
    """
    cards = {name: one.whole_gpus for name, one in groups.items() if one.whole_gpus}
    limits = {name: groups[name].max_workers for name in groups}
    room = _Room([node.num_gpus for node in nodes])
    if not any(room.free):
        apart = [name for name, one in groups.items() if one.apart or one.whole_gpus]
        return {name: Placement(limits[name] or 1) for name in apart}
    spans = {name: number > max(room.free) for name, number in cards.items()}
    numbers = dict.fromkeys(cards, 1)
    for name, number in cards.items():
        if not room.take(number, spans=spans[name]):
            raise EnvironmentFault(
                f"{name} needs {number} GPUs for one model, and {sum(room.free)} of "
                f"{sum(node.num_gpus for node in nodes)} are left for it; set a smaller tensor_parallel_size"
            )
    has_parts = any(one.gpu and not one.whole_gpus for one in groups.values())
    is_shared = has_parts and not room.keep_one(max(cards.values(), default=1))
    for name, number in cards.items():
        while not is_shared and numbers[name] != limits[name] and room.take(number, spans=spans[name]):
            numbers[name] += 1
    return {
        name: _placement(numbers[name], number, spans=spans[name], is_shared=is_shared)
        for name, number in cards.items()
    }


def _placement(num_workers: int, num_cards: int, *, spans: bool, is_shared: bool) -> Placement:
    fraction = SHARED_FRACTION if is_shared else 1.0
    if num_cards == 1:
        return Placement(num_workers, fraction, gpu_fraction=fraction)
    if not spans and not is_shared:
        return Placement(num_workers, float(num_cards))
    return Placement(num_workers, bundles=({"GPU": fraction},) * num_cards, gpu_fraction=fraction)


@dataclass
class _Room:
    """Cards that are still free, node by node."""

    free: list[int]

    def take(self, number: int, *, spans: bool) -> bool:
        """Take so many cards, of several nodes only if the model spans them; False if there are too few.

        Of nodes with enough cards the fullest gives them, so that large gaps stay.
        """
        if not spans:
            enough = [node for node, free in enumerate(self.free) if free >= number]
            if enough:
                self.free[min(enough, key=lambda node: self.free[node])] -= number
            return bool(enough)
        if sum(self.free) < number:
            return False
        for node in sorted(range(len(self.free)), key=lambda node: -self.free[node]):
            taken = min(number, self.free[node])
            self.free[node] -= taken
            number -= taken
        return True

    def keep_one(self, number: int) -> bool:
        """Take one where the fewest places for models of `number` cards are lost; False if none is left."""
        left = [node for node, free in enumerate(self.free) if free]
        if not left:
            return False
        spoils = {node: self.free[node] // number - (self.free[node] - 1) // number for node in left}
        self.free[min(left, key=lambda node: (spoils[node], self.free[node]))] -= 1
        return True


def nodes() -> list[Node]:
    """The machines of the connected cluster.

    Raises:
        EnvironmentFault: its head does not answer.
    """
    import ray

    found = within(ANSWER_S, ray.nodes, "the head of the Ray cluster did not answer")
    return [Node(node["NodeID"], int(node["Resources"].get("GPU", 0))) for node in found if node["Alive"]]


@dataclass
class Seat:
    """A worker's place in the cluster.

    Attributes:
        options: Of the Ray actor. It takes no CPU, so that workers that decode leave it room.
    """

    options: Mapping[str, Any]
    _group: Any = field(default=None, repr=False)

    def leave(self) -> None:
        """Give its placement group back, once the worker is gone; Ray kills who is still in there."""
        if self._group is not None:
            import ray

            ray.util.remove_placement_group(self._group)
            self._group = None


def take_seat(placement: Placement, timeout_s: float | None = SEAT_TIMEOUT_S) -> Seat:
    """What the actor of one worker needs; its placement group, if it stands in one, is ready.

    With `timeout_s` None it may not be: Ray then starts the actor once it is.

    Raises:
        EnvironmentFault: the GPUs are not to be had.
    """
    if not placement.bundles:
        return Seat({"num_cpus": 0, "num_gpus": placement.num_gpus})
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.placement_group([dict(bundle) for bundle in placement.bundles], strategy="PACK")
    seat = Seat(
        {
            "num_cpus": 0,
            "num_gpus": 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            ),
        },
        group,
    )
    if timeout_s is not None and not group.wait(timeout_s):
        seat.leave()
        raise EnvironmentFault(
            f"no {len(placement.bundles)} GPUs became free within {timeout_s:g} s for a model that spans them"
        )
    return seat
