"""Which frames a view picks. Frames carry their number as color, so a wrong one is seen at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.media.decode import decode_video
from curation.media.frame import Frame
from curation.media.views import GridCollector, SpanCollector
from curation.stage import View
from generated import a_sample, a_source, frames_at, numbers_in, texture, write_video

STEADY = [k / 25 for k in range(100)]
UNSTEADY = [0.0, 0.1, 0.5, 0.6, 2.0, 2.1]


def on_grid(view, times_s, end_s):
    """A collector that has seen frames at these times."""
    collector = GridCollector([view])
    for frame in frames_at(times_s):
        collector.push(frame)
    collector.finish(end_s)
    return collector


def picked(collector, view, start_s, end_s):
    return numbers_in(collector.media(view, a_source(), a_sample(start_s, end_s)).pixels)


def exactly(view, times_s, *spans):
    """The frames that an exact view picks of each span."""
    samples = [a_sample(*span) for span in spans]
    collector = SpanCollector(samples, [view])
    for frame in frames_at(times_s):
        collector.push(frame)
    collector.finish()
    return [numbers_in(collector.media(view, a_source(), sample).pixels) for sample in samples]


# By hand: a frame at 25 FPS is on display at time t if its number is floor(25 t).


@pytest.mark.parametrize(
    ("clip", "numbers"),
    [
        ((0.0, 4.0), [0, 12, 25, 37, 50, 62, 75, 87]),
        ((1.0, 3.0), [25, 37, 50, 62]),  # the end is exclusive
        ((0.2, 1.2), [12, 25]),  # the grid is the source's, not the clip's
        ((0.52, 0.96), []),  # no grid point inside
    ],
)
def test_a_rate_picks_on_the_grid_of_the_source(clip, numbers):
    view = View(fps=2)
    assert picked(on_grid(view, STEADY, 4.0), view, *clip) == numbers


def test_a_count_picks_the_grid_points_nearest_to_the_centers():
    view = View(count=3)
    # Centers 0.6, 1.8, 3.0; nearest quarter seconds 0.5, 1.75, 3.0.
    assert picked(on_grid(view, STEADY, 4.0), view, 0.0, 3.6) == [12, 43, 75]


def test_a_count_above_the_grid_points_repeats_frames():
    view = View(count=3)
    assert picked(on_grid(view, STEADY, 4.0), view, 0.2, 0.4) == [6, 6, 6]


def test_a_variable_rate_shows_each_frame_until_the_next():
    view = View(fps=2)
    media = on_grid(view, UNSTEADY, 2.6).media(view, a_source(), a_sample(0.0, 2.6))
    assert numbers_in(media.pixels) == [0, 2, 3, 3, 4, 5]  # at 0, 0.5, 1, 1.5, 2, 2.5
    assert media.pts_s.tolist() == [0.0, 0.5, 0.6, 0.6, 2.0, 2.1]


def test_the_grid_begins_with_the_first_frame():
    view = View(fps=2)
    times_s = [1.4667 + k / 25 for k in range(50)]
    assert picked(on_grid(view, times_s, 3.4667), view, 1.4667, 3.4667) == [0, 12, 25, 37]


def test_a_view_without_time_is_the_first_frame():
    view = View()
    assert picked(on_grid(view, STEADY, 4.0), view, 1.0, 3.0) == [25]
    assert exactly(View(), STEADY, (1.0, 3.0)) == [[25]]


def test_no_more_than_max_frames():
    view = View(fps=2, max_frames=3)
    assert picked(on_grid(view, STEADY, 4.0), view, 0.0, 4.0) == [0, 12, 25]
    assert exactly(View(fps=2, max_frames=3), STEADY, (0.0, 4.0)) == [[0, 12, 25]]


def test_a_clip_without_a_frame_is_empty():
    view = View(fps=2)
    media = on_grid(view, STEADY, 4.0).media(view, a_source(), a_sample(0.52, 0.96))
    assert (len(media.pixels), len(media.pts_s)) == (0, 0)


def test_frames_that_no_clip_needs_are_forgotten():
    view = View(fps=2)
    collector = on_grid(view, STEADY, 4.0)
    collector.forget_before(1.0)
    assert picked(collector, view, 0.0, 1.0) == []
    assert picked(collector, view, 1.0, 4.0) == [25, 37, 50, 62, 75, 87]


def test_each_view_gets_its_own_frames():
    views = [View(fps=1), View(fps=2, short_side=3)]
    collector = GridCollector([*views, views[0]])
    for frame in frames_at(STEADY):
        collector.push(frame)
    collector.finish(4.0)
    first, second = (collector.media(view, a_source(), a_sample(0.0, 4.0)) for view in views)
    assert numbers_in(first.pixels) == [0, 25, 50, 75]
    assert numbers_in(second.pixels) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert first.pixels.shape == (4, 6, 8, 3)
    assert second.pixels.shape == (8, 3, 4, 3)


def test_only_picked_frames_are_rendered():
    rendered = []

    def frame(number):
        def render():
            rendered.append(number)
            return np.zeros((2, 2, 3), np.uint8)

        return Frame(number / 25, number, render)

    grid = GridCollector([View(fps=1), View(fps=1, short_side=1)])
    exact = SpanCollector([a_sample(1.0, 3.0)], [View(fps=1)])
    for number in range(100):
        shared = frame(number)
        grid.push(shared)
        exact.push(shared)
    grid.finish(4.0)
    assert rendered == [0, 25, 50, 75]


# Exact views


def test_exact_counts_are_the_centers_of_equal_parts():
    # Of [1, 3.4) in twelve: 1.1, 1.3, ... 3.3.
    numbers = [27, 32, 37, 42, 47, 52, 57, 62, 67, 72, 77, 82]
    assert exactly(View(count=12), STEADY, (1.0, 3.4)) == [numbers]


def test_exact_rates_begin_with_the_span():
    # At 0.6, 1.1, 1.6, 2.1: 2.6 is out.
    assert exactly(View(fps=2), STEADY, (0.6, 2.6)) == [[15, 27, 40, 52]]


def test_float_noise_adds_no_frame():
    assert exactly(View(fps=2), STEADY, (0.6, 2.6 + 1e-9)) == [[15, 27, 40, 52]]


def test_a_span_between_two_frames_takes_none_from_before():
    # At 1.01 frame 25 of the neighbor is still on display.
    assert exactly(View(fps=2), STEADY, (1.01, 2.51)) == [[26, 37, 50]]


def test_the_shortest_span_has_one_frame():
    assert exactly(View(fps=2), STEADY, (1.0, 1.04)) == [[25]]
    assert exactly(View(count=2), STEADY, (1.0, 1.04)) == [[25, 25]]


def test_spans_that_touch_or_overlap_are_apart():
    view = View(fps=1)
    found = exactly(view, STEADY, (2.0, 4.0), (0.0, 2.0), (1.0, 3.0))
    assert found == [[50, 75], [0, 25], [25, 50]]


def test_a_span_is_complete_when_a_later_frame_is_seen():
    spans = [a_sample(0.0, 1.0), a_sample(1.0, 2.0), a_sample(2.0, 9.0)]
    view = View(count=1)
    collector = SpanCollector(spans, [view])
    complete = {frame.index: collector.push(frame) for frame in frames_at(STEADY)}
    assert {index: done for index, done in complete.items() if done} == {25: [spans[0]], 50: [spans[1]]}
    assert collector.finish() == [spans[2]]
    assert collector.finish() == []
    assert numbers_in(collector.media(view, a_source(), spans[2]).pixels) == [99]  # the last one stays


def test_a_forgotten_span_is_gone():
    span, view = a_sample(0.0, 1.0), View(count=1)
    collector = SpanCollector([span], [view])
    for frame in frames_at(STEADY):
        collector.push(frame)
    assert numbers_in(collector.media(view, a_source(), span).pixels) == [12]
    collector.forget(span)
    with pytest.raises(KeyError):
        collector.media(view, a_source(), span)


# Any rate, any cuts


@st.composite
def cut_videos(draw):
    """Frame times in seconds, the end of the last frame, and the frames where clips begin."""
    gaps_ms = draw(st.lists(st.integers(1, 900), min_size=1, max_size=60))
    times_ms = np.cumsum([draw(st.integers(0, 2000)), *gaps_ms]).tolist()
    cuts = draw(st.sets(st.integers(1, len(times_ms) - 1), max_size=5))
    return [time / 1000 for time in times_ms], times_ms[-1] / 1000 + 0.04, sorted({0, *cuts})


VIEWS = [View(fps=2), View(fps=7.3), View(count=3), View(count=1)]


@given(cut_videos())
def test_frames_never_come_from_a_neighbor(video):
    times_s, end_s, cuts = video
    ends = [*cuts[1:], len(times_s)]
    grid = GridCollector(VIEWS)
    spans = [
        a_sample(times_s[first], times_s[end] if end < len(times_s) else end_s)
        for first, end in zip(cuts, ends, strict=True)
    ]
    exact = SpanCollector(spans, VIEWS)
    for frame in frames_at(times_s):
        grid.push(frame)
        exact.push(frame)
    grid.finish(end_s)
    exact.finish()
    for span, first, end in zip(spans, cuts, ends, strict=True):
        for view in VIEWS:
            numbers = numbers_in(exact.media(view, a_source(), span).pixels)
            assert len(numbers) >= 1
            for number in numbers + numbers_in(grid.media(view, a_source(), span).pixels):
                assert first <= number < end


@given(cut_videos(), st.sampled_from([0.5, 1.0, 2.0, 8.0]))
def test_the_grid_shows_the_last_frame_that_began(video, fps):
    times_s, end_s, _ = video
    view = View(fps=fps)
    collector = on_grid(view, times_s, end_s)
    targets = [times_s[0] + k / fps for k in range(int((end_s - times_s[0]) * fps) + 1)]
    shown = [
        max(k for k, time in enumerate(times_s) if time <= target) for target in targets if target < end_s
    ]
    assert picked(collector, view, times_s[0], end_s) == shown


def test_the_same_frames_come_from_a_file(tmp_path):
    frames = [texture(20, 30, seed=k) for k in range(20)]
    times_ms = [0, 30, 400, 410, 900, *range(1000, 1600, 40)]
    path = write_video(tmp_path / "a.mkv", frames, times_ms=times_ms)
    view = View(fps=4)
    collector = GridCollector([view])
    for frame in decode_video(path):
        collector.push(frame)
    collector.finish(1.6)
    media = collector.media(view, a_source(), a_sample(0.0, 1.6))
    # Quarter seconds: 0, 0.25, 0.5, 0.75, 1.0, 1.25 (frame at 1.24), 1.5 (at 1.48).
    shown = [0, 1, 3, 3, 5, 11, 17]
    assert np.array_equal(media.pixels, np.stack([frames[k] for k in shown]))
    assert media.pts_s == pytest.approx([times_ms[k] / 1000 for k in shown])
