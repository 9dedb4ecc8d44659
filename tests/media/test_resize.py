"""Sizes are worked out by hand; pixels by what a mean is, and by Pillow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from curation.media.resize import resize, view_size
from curation.stage import View
from generated import texture


@dataclass(frozen=True)
class Fixed:
    """A sizing of its own: by way of twice the size, as a model's preparation might go."""

    height: int
    width: int

    def steps(self, height, width):
        if (height, width) == (self.height, self.width):
            return [(height, width)]
        return [(2 * self.height, 2 * self.width), (self.height, self.width)]


def test_a_sizing_is_followed_step_by_step():
    pixels, view = texture(50, 80), View(sizing=Fixed(40, 24))
    between = Image.fromarray(pixels).resize((48, 80), Image.Resampling.BICUBIC)
    expected = np.asarray(between.resize((24, 40), Image.Resampling.BICUBIC))
    assert view_size(view, 50, 80) == (40, 24)
    np.testing.assert_array_equal(resize(pixels, view), expected)


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


def test_pixels_are_not_written_to():
    pixels = texture(40, 60)
    pixels.setflags(write=False)
    before = pixels.copy()
    resize(pixels, View(sizing=Fixed(64, 64)))
    np.testing.assert_array_equal(pixels, before)


def test_without_a_size_the_pixels_are_the_same_ones():
    pixels = texture(30, 41)
    assert resize(pixels, View(count=3)) is pixels
    assert resize(pixels, View(short_side=30)) is pixels
    whole = texture(64, 64)
    assert resize(whole, View(sizing=Fixed(64, 64))) is whole


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
