"""How the GPUs of a cluster are shared out. No GPU is needed: nodes are invented, and Ray only counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from curation.errors import EnvironmentFault
from curation.execution.cluster.placement import Node, Placement, nodes, place, take_seat
from curation.stage import Resources
from heads import cluster_of

PARTS = Resources(gpu=True)


def engine(cards: int, limit: int | None = None) -> Resources:
    return Resources(gpu=True, whole_gpus=cards, apart=True, group="captions", max_workers=limit)


def placed(cards: int, *num_gpus: int, limit: int | None = None, parts: bool = True) -> Placement:
    groups = {"captions": engine(cards, limit)} | ({"models": PARTS} if parts else {})
    machines = [Node(str(number), count) for number, count in enumerate(num_gpus)]
    found = place(groups, machines)
    assert set(found) == {"captions"}  # how many workers fit on parts of cards is measured
    return found["captions"]


@pytest.mark.parametrize(
    ("cards", "num_gpus", "alone", "beside"),
    [
        # By hand: floor of each node's cards by the model's, after one card is set apart for the others.
        (1, [1], 1, 1),
        (1, [2], 2, 1),
        (1, [8, 8], 16, 15),
        (2, [4], 2, 1),
        (2, [5], 2, 2),  # the fifth card is of no use to a model on two
        (2, [3, 3], 2, 2),  # nor is the third of each node
        (2, [4, 3, 0], 3, 3),
        (4, [8, 4], 3, 2),
        (8, [4, 4, 4], 1, 1),  # over two nodes; the third has room for the others
        (4, [2, 2, 2, 2], 2, 1),
    ],
)
def test_as_many_models_as_there_is_room_for(
    cards: int, num_gpus: list[int], alone: int, beside: int
) -> None:
    assert placed(cards, *num_gpus, parts=False).num_workers == alone
    assert placed(cards, *num_gpus).num_workers == beside


@pytest.mark.parametrize(
    ("limit", "num_gpus", "expected"), [(3, [8], 3), (3, [2], 1), (None, [], 1), (3, [], 3), (3, [0, 0], 3)]
)
def test_limit_holds_with_and_without_gpus(limit: int | None, num_gpus: list[int], expected: int) -> None:
    assert placed(1, *num_gpus, limit=limit).num_workers == expected


def test_model_lies_on_one_node_where_a_node_has_its_cards() -> None:
    assert placed(4, 8, 2) == Placement(2, num_gpus=4.0)


def test_model_spans_nodes_where_none_has_its_cards() -> None:
    assert placed(4, 2, 3) == Placement(1, bundles=({"GPU": 1.0},) * 4)


def test_model_shares_the_last_card_with_the_others() -> None:
    assert placed(1, 1) == Placement(1, num_gpus=0.75, gpu_fraction=0.75)
    # Ray counts parts of one card alone, so a model on two that are shared needs a bundle for each.
    assert placed(2, 2) == Placement(1, bundles=({"GPU": 0.75},) * 2, gpu_fraction=0.75)
    assert placed(2, 2, parts=False) == Placement(1, num_gpus=2.0)


def test_two_models_for_whole_cards_both_get_some() -> None:
    groups = {"captions": engine(2), "rewritten": engine(1, 1), "models": PARTS}
    found = place(groups, [Node("a", 8)])
    assert (found["captions"].num_workers, found["rewritten"].num_workers) == (3, 1)


def test_too_few_gpus_are_named() -> None:
    with pytest.raises(EnvironmentFault, match="captions needs 4 GPUs for one model, and 3 of 3 are left"):
        placed(4, 2, 1)


def test_stages_that_decode_workers_measure_need_no_place() -> None:
    assert place({"color": Resources(), "models": PARTS}, [Node("a", 2)]) == {}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[list[str]]:
    """A real Ray cluster with 2 and 1 GPUs that it only counts."""
    import ray

    with cluster_of({"num_cpus": 2, "num_gpus": 2}, {"num_gpus": 1}) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield [node.name for node in nodes()]


def worker_class() -> Any:
    """Made here, so that Ray pickles it whole and its nodes need not know this file."""

    class Worker:
        def where(self) -> tuple[str, list[str], list[str]]:
            """Its node, the cards that it has itself, and the nodes of the bundles of its placement group."""
            import ray
            from ray.util.placement_group import placement_group_table

            group = ray.util.get_current_placement_group()
            places = {} if group is None else placement_group_table(group)["bundles_to_node_id"]
            context = ray.get_runtime_context()
            return context.get_node_id(), context.get_accelerator_ids()["GPU"], list(places.values())

    return Worker


def free_gpus() -> float:
    import ray

    found: float = ray.available_resources().get("GPU", 0.0)
    return found


def where(placement: Placement) -> Any:
    import ray

    seat = take_seat(placement)
    worker = ray.remote(**seat.options)(worker_class()).remote()
    try:
        return ray.get(worker.where.remote(), timeout=60), free_gpus()
    finally:
        ray.kill(worker)
        seat.leave()


@pytest.mark.slow
def test_ray_gives_a_model_the_cards_of_one_node(two_nodes: list[str]) -> None:
    assert sorted(node.num_gpus for node in nodes()) == [1, 2]
    placement = place({"captions": engine(2), "models": PARTS}, nodes())["captions"]
    (node, cards, bundles), left = where(placement)
    assert (len(cards), bundles, left) == (2, [], 1.0)
    assert node in two_nodes


@pytest.mark.slow
def test_ray_gives_a_model_that_spans_nodes_a_bundle_for_each_card(two_nodes: list[str]) -> None:
    """As vLLM's Ray executor takes them up: a current placement group, bundles of one GPU at most, which the
    worker itself leaves free."""
    placement = place({"captions": engine(3)}, nodes())["captions"]
    (node, cards, bundles), left = where(placement)
    assert (len(bundles), sorted(set(bundles))) == (3, sorted(two_nodes))
    assert (cards, left) == ([], 0.0)  # the cards are those of the bundles
    assert node in two_nodes


@pytest.mark.slow
def test_cards_that_do_not_become_free_are_told(two_nodes: list[str]) -> None:
    import ray

    holder = ray.remote(num_gpus=1, num_cpus=0)(worker_class()).remote()
    ray.get(holder.where.remote(), timeout=60)
    try:
        with pytest.raises(EnvironmentFault, match="no 3 GPUs became free within 1 s"):
            take_seat(Placement(1, bundles=({"GPU": 1.0},) * 3), timeout_s=1)
    finally:
        ray.kill(holder)
