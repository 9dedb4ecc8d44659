"""Digests of texts: equal texts are found, and no others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from curation.ledger.digests import Digests

TEXTS = st.lists(st.lists(st.text(max_size=3), max_size=8), max_size=5)


@given(TEXTS)
def test_texts_have_the_same_number_if_they_are_equal(parts: list[list[str]]) -> None:
    digests = Digests()
    for part in parts:
        digests.add(pa.array(part, pa.string()))
    texts = [text for part in parts for text in part]
    groups = digests.groups().tolist()
    assert len(digests) == len(groups) == len(texts)
    assert len({*zip(texts, groups, strict=True)}) == len({*texts}) == len({*groups})
    assert sorted({*groups}) == [*range(len({*texts}))]


def test_digests_that_share_their_heads_are_told_apart() -> None:
    digests = Digests()
    digests.add(pa.array([f"{number % 9}" for number in range(90)]))
    expected = digests.groups()
    digests._heads = [np.zeros(90, np.uint64)]
    tails = np.concatenate(digests._tails)
    assert len({*tails.tolist()}) == 9
    found = digests.groups()
    assert len({*zip(expected.tolist(), found.tolist(), strict=True)}) == 9
    assert sorted({*found.tolist()}) == [*range(9)]
