"""Which stages are measured apart, and how cards are shared out. No GPU is needed: cards are only counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation.execution.cluster.placement import Node, Placement
from curation.execution.models.groups import (
    CARD_SHARE,
    ModelGroup,
    model_groups,
    place_models,
    shared_placement,
)
from curation.stage import Resources
from datasets_media import built, config_data


def groups_of_run(
    media: Path, vocabulary: Path, device: Any, captions: dict[str, Any], **run: Any
) -> dict[str, set[str]]:
    model = {"model": str(vocabulary)}  # any file: nothing is loaded here
    data = config_data(media, media / "out", vocabulary, captions=model | captions)
    data["run"] |= run
    pipeline = built(data)[1]
    keys = {step.key for step in pipeline.steps()}
    return {group.name: set(group.keys) for group in model_groups(pipeline, keys, device)}


def test_what_likes_a_gpu_is_measured_apart_where_there_is_one(media: Path, vocabulary: Path) -> None:
    vllm = {"engine": "vllm"}
    models = {"images.aesthetic", "tokens"}  # flow is by DIS here, which runs on a CPU
    assert groups_of_run(media, vocabulary, "cuda", vllm) == {"models": models, "captions": {"captions"}}
    assert groups_of_run(media, vocabulary, "cpu", vllm) == {"captions": {"captions"}}
    server = {"engine": "openai", "url": "http://localhost/v1"}
    assert groups_of_run(media, vocabulary, "cuda", server) == {"models": models}
    assert groups_of_run(media, vocabulary, "cpu", server) == {}
    assert groups_of_run(media, vocabulary, "cpu", server, model_workers=1) == {"models": models}


PARTS = ModelGroup("models", frozenset(["tokens"]), Resources(gpu=True))
WHOLE = ModelGroup("captions", frozenset(["captions"]), Resources(gpu=True, whole_gpus=1, apart=True))


@pytest.mark.parametrize(
    ("cards", "num_workers", "expected"),
    [
        # Nothing is shared: captions take all cards but one.
        ([4], None, {WHOLE: Placement(3, 1.0), PARTS: Placement(1, CARD_SHARE)}),
        ([2, 2], None, {WHOLE: Placement(3, 1.0), PARTS: Placement(1, CARD_SHARE)}),
        # One card for both.
        ([1], None, {WHOLE: Placement(1, 0.75, gpu_fraction=0.75), PARTS: Placement(1, 0.24)}),
        # No card: one process for each.
        ([], None, {WHOLE: Placement(1), PARTS: Placement(1)}),
        ([], 2, {WHOLE: Placement(1), PARTS: Placement(2)}),
    ],
)
def test_cards_are_shared_out(
    cards: list[int], num_workers: int | None, expected: dict[ModelGroup, Placement]
) -> None:
    nodes = [Node(str(number), count) for number, count in enumerate(cards)]
    assert place_models([WHOLE, PARTS], {}, nodes, num_workers) == (expected, {})


def test_two_groups_share_every_card() -> None:
    other = ModelGroup("text", frozenset(["videos.text"]), Resources(gpu=True, group="text"))
    placed, _ = place_models([PARTS, other], {}, [Node("a", 2)], None)
    assert placed == {PARTS: Placement(2, 0.5), other: Placement(2, 0.5)}
    beside, _ = place_models([WHOLE, PARTS, other], {}, [Node("a", 1)], None)
    assert beside[PARTS] == beside[other] == Placement(1, 0.12)


def test_server_of_the_run_is_left_its_cards() -> None:
    server = {"captions": Resources(gpu=True, whole_gpus=2, max_workers=1)}
    placed, others = place_models([PARTS], server, [Node("a", 4)], None)
    assert placed == {PARTS: Placement(2, CARD_SHARE)}
    assert others == {"captions": Placement(1, 2.0)}


@pytest.mark.parametrize(
    ("num_workers", "num_cards", "expected"),
    [
        (None, 4, Placement(4, CARD_SHARE)),
        (2, 4, Placement(2, CARD_SHARE)),
        (6, 2, Placement(6, 0.33)),
    ],
)
def test_each_card_has_a_worker_unless_a_number_is_given(
    num_workers: int | None, num_cards: int, expected: Placement
) -> None:
    assert shared_placement(num_workers, num_cards) == expected
