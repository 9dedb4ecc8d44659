"""Packing: no id lost, none moved into another document, and packs as full as can be."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import ConfigError
from curation.tokenize_shards.documents.document import build, parse
from curation.tokenize_shards.documents.pack import (
    Packer,
    assemble,
    best_fit_decreasing,
    closed_by_pairs,
    collate,
    plan_packs,
)

lengths_and_context = st.integers(1, 60).flatmap(
    lambda context: st.tuples(st.lists(st.integers(1, context), max_size=40), st.just(context))
)


def document(number: int, side: int = 2) -> Any:
    return build([number, number], [9], np.full((1, side, side), number, np.uint16))


def test_pack_by_hand() -> None:
    """Documents of 4 and 3 ids in a context of 9: 151,860 is a visual code, 7 is text, 151,643 padding."""
    one, other = np.array([151_849, 7, 151_860, 151_850], np.int32), np.array([151_849, 8, 151_850], np.int32)
    pack = assemble([one, other], 9)
    assert pack.input_ids.tolist() == [*one, *other, 151_643, 151_643]
    assert pack.loss_weight.tolist() == [0, 1, 0.5, 1, 0, 1, 1, 0, 0]
    assert pack.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert pack.cu_seqlens.tolist() == [0, 4, 7, 9]
    assert (pack.num_documents, pack.num_tokens) == (2, 7)
    types = [array.dtype for array in (pack.input_ids, pack.loss_weight, pack.position_ids, pack.cu_seqlens)]
    assert types == [np.int32, np.float32, np.int32, np.int32]


def test_full_and_empty_packs() -> None:
    full = assemble([document(1)], len(document(1)))
    assert full.cu_seqlens.tolist() == [0, len(document(1))]
    assert full.num_tokens == len(full.input_ids)
    empty = assemble([], 4)
    assert (empty.num_tokens, empty.loss_weight.sum(), empty.cu_seqlens.tolist()) == (0, 0, [0, 4])
    with pytest.raises(ConfigError, match="do not fit"):
        assemble([document(1)], len(document(1)) - 1)


def test_all_of_an_image_but_its_markers_weighs_half() -> None:
    ids = document(5, side=3)
    pack = assemble([ids], 40)
    # By hand: 9 codes of weight 0.5; 3 EOL, EOF, SOV, SOT, EOV, EOS and 3 text ids of weight 1; BOS of 0.
    assert pack.loss_weight.sum() == 9 * 0.5 + 11
    assert assemble([ids], 40, vision_weight=1.0).loss_weight.sum() == 9 + 11


@given(data=lengths_and_context, way=st.sampled_from([plan_packs, best_fit_decreasing, closed_by_pairs]))
def test_every_document_is_in_one_pack_that_holds_it(data: Any, way: Any) -> None:
    lengths, context = data
    packs = way(np.array(lengths, np.int64), context)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in pack) <= context for pack in packs)


@cache
def optimum(lengths: tuple[int, ...], rooms: tuple[int, ...], context: int) -> int:
    """Fewest packs, by trying everything."""
    if not lengths:
        return 0
    first, rest = lengths[0], lengths[1:]
    fewest = 1 + optimum(rest, tuple(sorted((*rooms, context - first))), context)
    for place, room in enumerate(rooms):
        if first <= room:
            others = (*rooms[:place], *rooms[place + 1 :], room - first)
            fewest = min(fewest, optimum(rest, tuple(sorted(others)), context))
    return fewest


@given(st.lists(st.integers(1, 20), max_size=8))
def test_few_documents_need_hardly_more_packs_than_the_fewest(lengths: list[int]) -> None:
    best = optimum(tuple(sorted(lengths, reverse=True)), (), 20)
    # Best-fit decreasing is proven to need at most 11/9 of the fewest and 6/9 more (Dosa 2007, as for FFD).
    assert len(plan_packs(lengths, 20)) <= (11 * best + 6) // 9


def test_pairs_fill_what_going_from_long_to_short_leaves_open() -> None:
    # By hand: 10 + 7 + 3 and 9 + 6 + 5 fill 20 twice; best fit puts 10 with 9 and 7 with 6 and 5.
    sizes = np.array([10, 9, 7, 6, 5, 3])
    assert len(best_fit_decreasing(sizes, 20)) == 3
    assert [sorted(sizes[pack].tolist()) for pack in closed_by_pairs(sizes, 20)] == [[3, 7, 10], [5, 6, 9]]
    assert len(plan_packs(sizes, 20)) == 2


def test_better_of_both_ways_is_taken() -> None:
    rng = np.random.default_rng(0)
    found = [rng.integers(low, high, 40) for low, high in ((1, 21), (30, 45)) for _ in range(200)]
    numbers = [(len(best_fit_decreasing(sizes, 100)), len(closed_by_pairs(sizes, 100))) for sizes in found]
    assert any(best < pairs for best, pairs in numbers)
    assert any(best > pairs for best, pairs in numbers)
    assert [len(plan_packs(sizes, 100)) for sizes in found] == [min(pair) for pair in numbers]


def test_too_long_a_document_is_refused_by_a_plan_and_counted_by_a_packer() -> None:
    with pytest.raises(ConfigError, match="a document of 21 ids"):
        plan_packs([3, 21], 20)
    packer = Packer[str](20)
    assert packer.plan([("a", 21), ("b", 20), ("c", 30)], is_last=True) == [["b"]]
    assert (packer.fill.num_too_long, packer.fill.num_tokens_too_long) == (2, 51)
    assert (packer.fill.num_packs, packer.fill.num_documents, packer.fill.fraction) == (1, 1, 1.0)


@given(
    lengths=st.lists(st.integers(1, 25), max_size=120),
    window=st.integers(1, 30),
)
def test_packer_yields_each_document_once_and_soon(lengths: list[int], window: int) -> None:
    packer = Packer[int](20)
    seen: list[int] = []
    starts = range(0, max(len(lengths), 1), window)
    for start in starts:
        part = [(index, lengths[index]) for index in range(start, min(start + window, len(lengths)))]
        packs = packer.plan(part, is_last=start == starts[-1])
        assert all(sum(lengths[index] for index in pack) <= 20 for pack in packs)
        seen += [index for pack in packs for index in pack]
        # One window later at most.
        assert {index for index in range(start) if lengths[index] <= 20} <= set(seen)
    assert sorted(seen) == [index for index, size in enumerate(lengths) if size <= 20]
    assert packer.fill.num_tokens == sum(size for size in lengths if size <= 20)
    assert packer.fill.num_too_long == sum(size > 20 for size in lengths)


def test_document_that_fits_nowhere_waits_for_one_window_only() -> None:
    packer = Packer[str](20)
    full = [(f"full {number}", 20) for number in range(10)]
    assert ["odd"] not in packer.plan([("odd", 11), *full], is_last=False)
    assert ["odd"] in packer.plan(full, is_last=False)


def test_second_chance_fills_better() -> None:
    """Sizes of 512 x 512 images and of short texts, in windows of 50: against each window for itself."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(4200, 4400, 500), rng.integers(20, 1800, 500)])
    rng.shuffle(lengths)
    packer, alone = Packer[int](5120), 0
    for start in range(0, 1000, 50):
        part = lengths[start : start + 50]
        packer.plan([(index, int(size)) for index, size in enumerate(part)], is_last=start == 950)
        alone += len(plan_packs(part, 5120))
    assert packer.fill.num_packs < alone


def test_documents_come_out_of_packs_as_they_went_in() -> None:
    documents = [document(number, side=number) for number in range(1, 8)]
    packs = plan_packs([len(ids) for ids in documents], 120)
    for members in packs:
        pack = assemble([documents[index] for index in members], 120)
        for place, index in enumerate(members):
            ids = pack.input_ids[pack.cu_seqlens[place] : pack.cu_seqlens[place + 1]]
            assert np.array_equal(parse(ids).grid, np.full((1, index + 1, index + 1), index + 1))


def test_batch_is_one_long_sequence_for_attention() -> None:
    packs = [assemble([document(1)], 16), assemble([document(2)], 16), assemble([document(3)], 20)]
    batch = collate(packs[:2])
    size = len(document(1))
    assert batch["input_ids"].shape == (2, 16)
    assert batch["cu_seqlens"].tolist() == [0, size, 16, 16 + size, 32]
    assert batch["cu_seqlens"].dtype == np.int32
    flat = batch["position_ids"].reshape(-1)
    assert (flat[batch["cu_seqlens"][:-1]] == 0).all()
    assert (np.flatnonzero(flat == 0) == batch["cu_seqlens"][:-1]).all()
