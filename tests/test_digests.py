"""Digests of texts and of ids: equal ones are found, and no others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from curation.ledger.digests import Digests, hashed, unpacked
from curation.records import stable_id

TEXTS = st.lists(st.lists(st.text(max_size=3), max_size=8), max_size=5)


@given(TEXTS)
def test_texts_have_the_same_number_if_they_are_equal(parts: list[list[str]]) -> None:
    digests = Digests()
    for part in parts:
        digests.add(hashed(pa.array(part, pa.string())))
    texts = [text for part in parts for text in part]
    groups = digests.groups().tolist()
    assert len(digests) == len(groups) == len(texts)
    assert len({*zip(texts, groups, strict=True)}) == len({*texts}) == len({*groups})
    assert sorted({*groups}) == [*range(len({*texts}))]


def test_digests_that_share_their_heads_are_told_apart() -> None:
    digests = Digests()
    digests.add(hashed(pa.array([f"{number % 9}" for number in range(90)])))
    expected = digests.groups()
    digests._heads = [np.zeros(90, np.uint64)]
    tails = np.concatenate(digests._tails)
    assert len({*tails.tolist()}) == 9
    found = digests.groups()
    assert len({*zip(expected.tolist(), found.tolist(), strict=True)}) == 9
    assert sorted({*found.tolist()}) == [*range(9)]
    assert len(digests.repeated()) == 81


@given(st.lists(st.integers(0, 30), max_size=40))
def test_ids_that_came_twice_are_told(numbers: list[int]) -> None:
    parts = [Digests(), Digests()]
    for place, number in enumerate(numbers):
        parts[place % 2].add(unpacked(pa.array([stable_id(number)])))
    parts[0].merge(parts[1])
    repeated = parts[0].repeated()
    assert {*repeated} == {stable_id(number) for number in numbers if numbers.count(number) > 1}
    assert len(repeated) == len(numbers) - len({*numbers})


def test_names_that_are_no_ids_are_told_apart_all_the_same() -> None:
    seen = Digests()
    seen.add(unpacked(pa.array(["a", "b", "0123456789abcdefghij", "0123456789ABCDEF0123"])))
    seen.add(unpacked(pa.array([], pa.string())))
    assert seen.repeated() == []
    seen.add(unpacked(pa.array(["b"])))
    assert len(seen.repeated()) == 1
