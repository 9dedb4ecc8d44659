"""Sizes are worked out by hand; pixels from what a mean is."""

from __future__ import annotations

import numpy as np
import pytest

from curation.errors import UnsupportedMediaError
from curation.media.resize import resize, view_size
from curation.stage import View
from generated import texture


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        ((720, 1280), (256, 455)),  # 1280 * 256 / 720 = 455.1
        ((1280, 720), (455, 256)),
        ((256, 400), (256, 400)),
        ((144, 176), (144, 176)),  # never enlarged
        ((257, 257), (256, 256)),
        ((1, 9), (1, 9)),
    ],
)
def test_the_short_side_is_a_limit(stored, seen):
    assert view_size(View(short_side=256), *stored) == seen


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        ((720, 1280), (384, 680)),  # times sqrt(512 * 512 / (720 * 1280)) = 0.5333: 384, 682.7
        ((512, 512), (512, 512)),
        ((100, 100), (512, 512)),  # an area enlarges
        ((100, 500), (232, 1144)),  # 228.97 and 1144.9
        ((500, 100), (1144, 232)),
    ],
)
def test_an_area_keeps_the_aspect_ratio_in_multiples(stored, seen):
    assert view_size(View(area=512 * 512, multiple=8), *stored) == seen


def test_a_side_is_one_multiple_at_least():
    assert view_size(View(area=16 * 16, multiple=16), 10, 50) == (16, 32)  # 7.2 and 35.8


@pytest.mark.parametrize("stored", [(100, 501), (501, 100)])
def test_an_area_refuses_aspect_ratios_above_five(stored):
    with pytest.raises(UnsupportedMediaError, match="501"):
        view_size(View(area=512 * 512, multiple=8), *stored)
    assert view_size(View(short_side=50), *stored)


def test_without_a_size_the_pixels_are_the_same_ones():
    pixels = texture(30, 41)
    assert resize(pixels, View(count=3)) is pixels
    assert resize(pixels, View(short_side=30)) is pixels


def test_shrinking_averages_areas():
    pixels = texture(64, 96)
    by_hand = pixels.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    small = resize(pixels, View(short_side=32))
    assert small.shape == (32, 48, 3)
    assert small.dtype == np.uint8
    assert np.abs(small - by_hand).max() <= 0.5


def test_a_fine_pattern_does_not_alias():
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(resize(stripes, View(short_side=24)).astype(int) - 100).max() <= 20


def test_enlarging_is_smooth_and_keeps_the_mean():
    pixels = texture(40, 40)
    large = resize(pixels, View(area=160 * 160, multiple=8))
    assert large.shape == (160, 160, 3)
    assert abs(large.mean() - pixels.mean()) < 1
    steps = np.abs(np.diff(large.astype(int), axis=1)).max()
    assert steps < np.abs(np.diff(pixels.astype(int), axis=1)).max()
