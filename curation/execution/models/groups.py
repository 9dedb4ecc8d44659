"""Which steps of a pass model workers measure, which of them share workers, and how many there are."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from curation.execution.cluster.placement import SHARED_FRACTION, Node, Placement, groups_of, place
from curation.pipeline import Pipeline
from curation.stage import Resources

CARD_SHARE = 0.51
"""Of a card, as Ray counts, for the first worker on it: no card has room for two."""
_LEFT_SHARE = 0.24
"""What a worker takes of a card beside a model for whole cards, which leaves it little more."""


@dataclass(frozen=True)
class ModelGroup:
    """Steps whose stages are held by the same model workers.

    Attributes:
        name: As `Resources.group` says.
        keys: Keys of the steps.
        resources: What all their stages together need.
    """

    name: str
    keys: frozenset[str]
    resources: Resources

    @property
    def title(self) -> str:
        """The steps, for messages."""
        return ", ".join(sorted(self.keys))


def model_groups(
    pipeline: Pipeline, needs: Collection[str], device: Literal["cpu", "cuda"]
) -> list[ModelGroup]:
    """The groups of a pass that may run these steps, in the order of the work.

    Without a GPU the decode workers measure what would like one, unless `run.model_workers` is set.
    """
    is_split = device == "cuda" or pipeline.config.run.model_workers is not None
    steps = [
        (step.key, step.stage, wants)
        for step in pipeline.steps()
        if step.key in needs and not step.is_dataset_wide
        for wants in [step.stage.resources()]
        if wants.apart or (wants.gpu and is_split)
    ]
    together = groups_of(stage for _, stage, _ in steps)
    return [
        ModelGroup(name, frozenset(key for key, _, wants in steps if wants.group == name), resources)
        for name, resources in together.items()
    ]


def place_models(
    groups: Sequence[ModelGroup],
    others: Mapping[str, Resources],
    nodes: Sequence[Node],
    num_workers: int | None,
) -> tuple[dict[ModelGroup, Placement], dict[str, Placement]]:
    """Where the workers of each group run, and how many there are at first; where the others run, by name.

    Args:
        groups: Those of a pass.
        others: What else takes GPUs in it, by name.
        nodes: Those with GPUs; none where models run on CPUs.
        num_workers: Workers of each group that takes parts of cards; None for as many as there is room for.

    Raises:
        EnvironmentFault: there are fewer GPUs than a group's model spans.
    """
    wanted = {**others, **{group.name: group.resources for group in groups}}
    placed = place(wanted, nodes)
    num_cards = sum(node.num_gpus for node in nodes)
    num_taken = sum(placed[name].num_workers * wanted[name].whole_gpus for name in placed)
    is_beside = num_cards > 0 and any(placed[name].gpu_fraction == SHARED_FRACTION for name in placed)
    num_shared = sum(group.name not in placed for group in groups)
    shared = (
        Placement(num_workers or num_cards, _hundredths(_LEFT_SHARE / max(1, num_shared)))
        if is_beside
        else shared_placement(num_workers, max(0, num_cards - num_taken), num_shared)
    )
    found = {group: placed.get(group.name, shared) for group in groups}
    return found, {name: placed.get(name, Placement(1)) for name in others}


def shared_placement(num_workers: int | None, num_cards: int, num_groups: int = 1) -> Placement:
    """Where the workers of each of so many groups run that take parts of cards.

    That is one worker on each card, or `num_workers` in all; without cards `num_workers`, or one.
    """
    if not num_cards:
        return Placement(num_workers or 1)
    if num_groups <= 1 and (num_workers is None or num_workers <= num_cards):
        return Placement(num_workers or num_cards, CARD_SHARE)
    per_card = math.ceil((num_workers or num_cards) / num_cards)
    return Placement(num_workers or num_cards, _hundredths(1 / (per_card * max(1, num_groups))))


def num_cards(placement: Placement) -> float:
    """GPUs that the workers of a group hold; one that leaves no room for other models holds its card."""
    alone = 1.0 if placement.num_gpus == CARD_SHARE else placement.num_gpus
    return placement.num_workers * (len(placement.bundles) or alone)


def _hundredths(share: float) -> float:
    """Rounded down, so that all parts of a card fit on it."""
    return math.floor(100 * share) / 100
