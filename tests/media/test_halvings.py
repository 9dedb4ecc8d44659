"""Halves by what a mean is, bilinear sizes by its formula; near the mean of areas on real photos."""

from __future__ import annotations

import numpy as np
import pytest

from curation.media.frame import Frame
from curation.media.halvings import Halvings
from curation.media.image import read_image
from curation.media.resize import resize, view_size
from curation.media.views import SpanCollector
from curation.stage import Media, View
from generated import a_sample, a_source, texture

HALVED = View(short_side=64, halved=True)


def halved(pixels):
    """Means of two by two, halves up; an odd last row or column is left out."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    squares = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).astype(int)
    return ((squares.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)


def bilinear(pixels, size):
    """Each new pixel's center is looked up between the centers of the four pixels around it."""
    taken = []
    for length, wanted in zip(pixels.shape, size, strict=False):
        at = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
        low = np.minimum(at.astype(int), length - 2)
        taken.append((low, at - low))
    (top, down), (left, right) = taken
    rows = pixels[top] * (1 - down)[:, None, None] + pixels[top + 1] * down[:, None, None]
    return rows[:, left] * (1 - right)[:, None] + rows[:, left + 1] * right[:, None]


@pytest.mark.parametrize(
    ("stored", "short_side", "halvings"),
    [((512, 768), 64, 3), ((300, 400), 150, 1), ((151, 201), 75, 1), ((127, 300), 64, 0), ((40, 900), 9, 2)],
)
def test_sizes_are_of_the_smallest_half_that_is_not_smaller(stored, short_side, halvings):
    pixels = texture(*stored)
    expected = pixels
    for _ in range(halvings):
        expected = halved(expected)
    size = view_size(View(short_side=short_side), *stored)
    found = Halvings(pixels).at_short_side(short_side)
    assert found.shape == (*size, 3)
    # OpenCV weighs in steps of 1/2048, rounded after each direction.
    assert np.abs(found - bilinear(expected, size)).max() <= 1
    np.testing.assert_array_equal(resize(pixels, View(short_side=short_side, halved=True)), found)


def test_exact_halves_are_not_interpolated():
    pixels = texture(256, 384)
    np.testing.assert_array_equal(Halvings(pixels).at((64, 96)), halved(halved(pixels)))


@pytest.mark.parametrize("stored", [(64, 64), (31, 400), (1, 1), (1, 700)])
def test_what_is_small_enough_is_left_as_it_is(stored):
    pixels = texture(*stored)
    assert Halvings(pixels).at_short_side(64) is pixels


def test_a_size_does_not_depend_on_which_others_are_asked_for():
    pixels = texture(700, 901)
    alone = {side: Halvings(pixels).at_short_side(side) for side in (350, 256, 96, 64)}
    for order in (sorted(alone), sorted(alone, reverse=True)):
        shared = Halvings(pixels)
        for side in order:
            np.testing.assert_array_equal(shared.at_short_side(side), alone[side])


def test_an_image_is_shrunk_from_its_own_size_whatever_its_view():
    pixels = texture(700, 901)
    shown = [
        Media(a_source(kind="image"), resize(pixels, view)[np.newaxis], np.zeros(1), [Halvings(pixels)])
        for view in (View(), View(short_side=100))
    ]
    (one,), (other,) = (media.shrunk(64) for media in shown)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, Halvings(pixels).at_short_side(64))


def test_frames_are_shrunk_one_by_one_from_their_view():
    frames = np.stack([texture(256, 400, seed=seed) for seed in range(3)])
    spans = SpanCollector([a_sample(0.0, 3.0)], [view := View(fps=1)])
    for number, frame in enumerate(frames):
        spans.push(Frame(float(number), number, lambda frame=frame: frame))
    spans.finish()
    media = spans.media(view, a_source(), a_sample(0.0, 3.0))
    for small, frame in zip(media.shrunk(64), frames, strict=True):
        np.testing.assert_array_equal(small, Halvings(frame).at_short_side(64))


def test_a_frame_keeps_halved_views_apart_from_averaged_ones():
    pixels = texture(300, 400)
    frame = Frame(0.0, 0, lambda: pixels)
    averaged = frame.resized(View(short_side=64))
    np.testing.assert_array_equal(frame.resized(HALVED), resize(pixels, HALVED))
    assert not np.array_equal(frame.resized(HALVED), averaged)


def test_pixels_may_be_read_only():
    pixels = texture(300, 400)
    pixels.setflags(write=False)
    assert Halvings(pixels).at_short_side(64).shape == (64, 85, 3)


def test_a_fine_pattern_does_not_alias():
    stripes = np.zeros((480, 480, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(resize(stripes, HALVED).astype(int) - 100).max() <= 1


REAL = ("sk_retina.jpg", "sk_hubble_deep_field.jpg", "skl_flower.jpg", "sk_rocket.jpg", "sk_coffee.png")


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("short_side", [96, 256])
def test_real_photos_are_near_to_the_mean_of_areas(shared_data, name, short_side):
    pixels = read_image(shared_data / "image" / name)
    averaged = resize(pixels, View(short_side=short_side)).astype(int)
    found = resize(pixels, View(short_side=short_side, halved=True))
    assert np.abs(found - averaged).mean() <= 3
    assert np.abs(found.mean() - averaged.mean()) <= 0.75  # each halving rounds up by an eighth on average
