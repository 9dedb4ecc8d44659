"""Which sources a pilot draws."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from curation.errors import ConfigError
from curation.estimate.sampling import draw_sources


def listed(**kinds: list[int]) -> pa.Table:
    """A listing of files of these sizes."""
    rows = [
        {"uri": f"{kind}{number}.{kind}", "kind": kind, "size_bytes": size}
        for kind, sizes in kinds.items()
        for number, size in enumerate(sizes)
    ]
    return pa.Table.from_pylist(rows)


def test_draws_are_repeated_by_their_seed_and_are_others_by_another() -> None:
    table = listed(image=list(range(1000)))
    first, again, other = (draw_sources(table, 50, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert first == sorted(set(first))
    assert len(first) == 50


def test_few_videos_that_are_most_bytes_get_their_part() -> None:
    """By hand: 1 % of the sources and 99 % of the bytes are half of a pilot, and there are just 20."""
    table = listed(image=[1] * 1980, video=[9801] * 20)
    drawn = draw_sources(table, 100, 0)
    assert int((drawn >= 1980).sum()) == 20
    assert len(drawn) == 100


def test_every_kind_is_drawn() -> None:
    table = listed(image=[1000] * 500, video=[1] * 8)
    assert int((draw_sources(table, 20, 3) >= 500).sum()) >= 5


@pytest.mark.parametrize("seed", range(5))
def test_sizes_are_drawn_as_they_are_there(seed: int) -> None:
    """Every tenth by size from a random start: of each tenth of the sizes just one."""
    sizes = np.random.default_rng(seed).permutation(100)
    drawn = draw_sources(listed(image=sizes.tolist()), 10, seed)
    assert sorted(sizes[drawn] // 10) == list(range(10))


def test_all_can_be_drawn_and_more_can_not() -> None:
    table = listed(image=[1, 2, 3], video=[4])
    assert draw_sources(table, 4, 0).tolist() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match=r"--pilot 5: only 4 sources are left to be measured; take fewer"):
        draw_sources(table, 5, 0)
