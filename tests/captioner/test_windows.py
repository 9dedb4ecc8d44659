"""Windows of long clips. The rule is Emu3's: clips of 20 s and more become windows of 10 to 20 s."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curation.captioner.windows import windows
from curation.records import Sample

MICROSECOND = 1e-6


def clip(start_s: float, seconds: float) -> Sample:
    return Sample.of_span("source", start_s, start_s + seconds)


def spans(parts: list[Sample]) -> list[tuple[float, float]]:
    return [(part.start_s, part.end_s) for part in parts]


@pytest.mark.parametrize("seconds", [0.04, 3.0, 19.999])
def test_a_clip_below_20_s_is_its_own_window(seconds: float) -> None:
    whole = clip(5.0, seconds)
    assert windows(whole, 20.0, 20.0) == [whole]
    assert windows(whole, 20.0, 20.0)[0].parent_id is None


# By hand: 40 s still fit into two windows of 20 s, 41 s do not.
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (20.0, [(8.0, 18.0), (18.0, 28.0)]),
        (30.0, [(8.0, 23.0), (23.0, 38.0)]),
        (40.0, [(8.0, 28.0), (28.0, 48.0)]),
        (42.0, [(8.0, 22.0), (22.0, 36.0), (36.0, 50.0)]),
    ],
)
def test_long_clips_are_cut_into_the_fewest_equal_windows(
    seconds: float, expected: list[tuple[float, float]]
) -> None:
    assert spans(windows(clip(8.0, seconds), 20.0, 20.0)) == expected


@given(start_s=st.floats(0, 36_000), seconds=st.floats(0.01, 7_200))
@example(start_s=0.0, seconds=19.999999)
@example(start_s=0.0, seconds=20.0)
@example(start_s=0.0, seconds=60.0)
@example(start_s=0.1, seconds=100.0)
def test_windows_last_10_to_20_s_and_tile_the_clip(start_s: float, seconds: float) -> None:
    whole = clip(start_s, seconds)
    parts = windows(whole, 20.0, 20.0)
    if whole.duration_s < 20:
        assert parts == [whole]
        return
    assert len(parts) == max(2, math.ceil(whole.duration_s / 20))  # the fewest of at most 20 s
    assert (parts[0].start_s, parts[-1].end_s) == (whole.start_s, whole.end_s)
    assert all(one.end_s == other.start_s for one, other in pairwise(parts))
    lengths = [part.duration_s for part in parts]
    assert min(lengths) >= 10 - MICROSECOND
    assert max(lengths) <= 20 + MICROSECOND
    assert max(lengths) - min(lengths) < MICROSECOND
    assert {part.parent_id for part in parts} == {whole.sample_id}
    assert len({part.sample_id for part in parts} | {whole.sample_id}) == len(parts) + 1


def test_windows_belong_to_the_source_of_their_clip() -> None:
    parts = windows(clip(0.0, 25.0), 20.0, 20.0)
    assert {(part.source_id, part.kind) for part in parts} == {("source", "clip")}


def test_both_limits_can_be_set() -> None:
    assert len(windows(clip(0.0, 9.0), 10.0, 4.0)) == 1
    assert spans(windows(clip(0.0, 12.0), 10.0, 4.0)) == [(0.0, 4.0), (4.0, 8.0), (8.0, 12.0)]


def test_an_image_is_its_own_window() -> None:
    image = Sample(sample_id="image", source_id="source", kind="image")
    assert windows(image, 0.0, 20.0) == [image]
