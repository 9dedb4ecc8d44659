"""Emu3's sizes are worked out by hand and by its formula; pixels by Pillow."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from PIL import Image
from transformers.models.emu3.image_processing_emu3 import smart_resize

from curation.errors import UnsupportedMediaError
from curation.media.frame import Frame
from curation.media.image import read_image
from curation.media.resize import resize, view_size
from curation.media.views import SpanCollector
from curation.stage import View
from curation.tokenize_shards.vision.sizes import Emu3Sizes
from generated import a_sample, a_source, texture

# Emu3's sizes. The formula is that of its data preparation and image processor (github.com/baaivision/Emu3,
# emu3/train/prepare_data.py and emu3/tokenizer/image_processing_emu3visionvq.py), written anew.


def aimed_at(area, height, width):
    """The first resize: the area at the same aspect ratio, sides rounded to pixels."""
    scale = math.sqrt(area / (height * width))
    return round(height * scale), round(width * scale)


def in_tokens(height, width, least=512 * 512, most=1024 * 1024):
    """The second resize: multiples of 8 within two areas."""
    height_8, width_8 = round(height / 8) * 8, round(width / 8) * 8
    if height_8 * width_8 > most:
        beta = math.sqrt(height * width / most)
        return math.floor(height / beta / 8) * 8, math.floor(width / beta / 8) * 8
    if height_8 * width_8 < least:
        beta = math.sqrt(least / (height * width))
        return math.ceil(height * beta / 8) * 8, math.ceil(width * beta / 8) * 8
    return height_8, width_8


def emu3_steps(area, height, width):
    """Sizes that a picture passes through."""
    if isinstance(area, tuple):
        return [in_tokens(height, width, *area)]
    near = aimed_at(area, height, width)
    return [near, in_tokens(*near)]


def random_sizes(number, seed):
    """Heights and widths up to 6,000 pixels whose aspect ratio is 5 at most."""
    draw = random.Random(seed)
    while number:
        height, width = draw.randint(8, 6000), draw.randint(8, 6000)
        if max(height, width) <= 5 * min(height, width):
            yield height, width
            number -= 1


EMU3_AREAS = [512 * 512, 720 * 720, 1024 * 1024, (512 * 512, 1024 * 1024), (448 * 448, 720 * 720)]


@pytest.mark.parametrize("area", EMU3_AREAS)
def test_sizes_are_those_of_emu3(area):
    view = View(sizing=Emu3Sizes(area))
    for stored in random_sizes(5000, seed=11):
        assert view_size(view, *stored) == emu3_steps(area, *stored)[-1], stored


@pytest.mark.parametrize("least_most", [(512 * 512, 1024 * 1024), (300 * 300, 720 * 720)])
def test_a_pair_is_the_rule_of_the_published_image_processor(least_most):
    least, most = least_most
    for stored in random_sizes(5000, seed=12):
        theirs = smart_resize(*stored, factor=8, min_pixels=least, max_pixels=most)
        assert view_size(View(sizing=Emu3Sizes(least_most)), *stored) == theirs, stored


@pytest.mark.parametrize(
    ("area", "stored", "seen"),
    [
        # Times sqrt(512 * 512 / (720 * 1280)): 384.0 and 682.67, so 384 x 683. In multiples of 8, 384 x 680
        # are below 512 * 512, so both go up: 683 * sqrt(512 * 512 / (384 * 683)) = 682.8 to 688.
        (512 * 512, (720, 1280), (384, 688)),
        (512 * 512, (1280, 720), (688, 384)),
        (512 * 512, (480, 640), (448, 592)),  # 443.4 and 591.2
        (512 * 512, (512, 512), (512, 512)),
        (512 * 512, (100, 100), (512, 512)),  # an area enlarges
        (720 * 720, (1080, 1920), (544, 960)),  # 540 and 960; 67.5 tokens go to the even 68
        (720 * 720, (2025, 1024), (1008, 512)),  # 1012.5 goes to the even 1012, 126.5 tokens to 126
        (1024 * 1024, (480, 640), (880, 1176)),  # 886.8 and 1182.4: 888 x 1184 is too large, down
        ((512 * 512, 1024 * 1024), (720, 1280), (720, 1280)),  # left as it is
        ((512 * 512, 1024 * 1024), (723, 1284), (720, 1280)),  # but for multiples of 8; 160.5 goes to 160
        ((512 * 512, 1024 * 1024), (360, 640), (384, 688)),  # up: 384.0, 682.7
        ((512 * 512, 1024 * 1024), (3000, 4000), (880, 1176)),  # down: 886.8, 1182.4
        # Areas outside of Emu3's bounds move these: else every smaller one would be 512 * 512.
        (256 * 256, (512, 512), (256, 256)),
        (256 * 256, (480, 640), (224, 296)),  # 221.7 and 295.6, up
        (2048 * 2048, (100, 100), (2048, 2048)),
        (2048 * 2048, (480, 640), (1768, 2360)),  # 1773.6 and 2364.8: 1776 x 2368 is too large, down
    ],
)
def test_emu3_sizes_by_hand(area, stored, seen):
    assert view_size(View(sizing=Emu3Sizes(area)), *stored) == seen


@pytest.mark.parametrize("area", [64 * 64, 256 * 256, *EMU3_AREAS, 2048 * 2048])
def test_emu3_sizes_fit_the_tokenizer_and_keep_the_shape(area):
    for height, width in random_sizes(1000, seed=13):
        rows, columns = (side / 8 for side in view_size(View(sizing=Emu3Sizes(area)), height, width))
        assert rows.is_integer()
        assert columns.is_integer()
        # Within a token of the stored aspect ratio, whichever side went which way.
        assert (rows - 1.1) / (columns + 1.1) < height / width < (rows + 1.1) / (columns - 1.1)


@pytest.mark.parametrize("stored", [(100, 501), (501, 100)])
@pytest.mark.parametrize("area", [512 * 512, (512 * 512, 1024 * 1024)])
def test_emu3_refuses_aspect_ratios_above_five(stored, area):
    for ask in (view_size, lambda view, *size: resize(np.zeros((*size, 3), np.uint8), view)):
        with pytest.raises(UnsupportedMediaError, match="501"):
            ask(View(sizing=Emu3Sizes(area)), *stored)
    assert view_size(View(sizing=Emu3Sizes(area)), 100, 500)
    assert view_size(View(short_side=50), *stored)


def by_pillow(pixels, area):
    """The picture after Emu3's resizes, which are Pillow's default for RGB: bicubic with antialiasing."""
    image = Image.fromarray(pixels)
    for height, width in emu3_steps(area, *pixels.shape[:2]):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def assert_equals_pillow(pixels, area):
    found = resize(pixels, View(sizing=Emu3Sizes(area)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, by_pillow(pixels, area))


@pytest.mark.parametrize(
    "stored",
    [(720, 1280), (601, 450), (1080, 1080), (97, 301), (512, 512), (384, 688), (700, 777), (1300, 900)],
)
@pytest.mark.parametrize("area", [512 * 512, 720 * 720, (512 * 512, 1024 * 1024)])
def test_pixels_equal_pillow_to_the_level(stored, area):
    fine = np.random.default_rng(1).integers(0, 256, (*stored, 3)).astype(np.uint8)
    assert_equals_pillow(texture(*stored) // 2 + fine // 2, area)


@pytest.mark.parametrize("name", ["gr_cheetah.jpg", "oc_CLIP.png", "mmcv_palette.gif", "pil_flower.jpg"])
@pytest.mark.parametrize("area", [512 * 512, 720 * 720, (512 * 512, 1024 * 1024)])
def test_real_pictures_equal_pillow_to_the_level(shared_data, name, area):
    assert_equals_pillow(read_image(shared_data / "image" / name, 10**9), area)


def test_frames_of_a_clip_are_resized_like_pictures():
    frames = [texture(270, 480, seed=seed) for seed in range(5)]
    span, view = a_sample(0.0, 1.0), View(fps=4, max_frames=4, sizing=Emu3Sizes(128 * 128))
    # Another view of the same size must not be taken for it: 128 pixels are the short side of a square.
    square = [frame[:, :270] for frame in frames]
    for pictures in (frames, square):
        views = [View(fps=4, short_side=128), view]
        collector = SpanCollector([span], views)
        for number, picture in enumerate(pictures):
            collector.push(Frame(number / 4, number, lambda picture=picture: picture))
        pixels = collector.media(view, a_source(), span).pixels
        assert len(pixels) == 4
        for shown, picture in zip(pixels, pictures[:4], strict=True):
            near = aimed_at(128 * 128, *picture.shape[:2])
            size = in_tokens(*near, least=128 * 128)
            expected = Image.fromarray(picture).resize(near[::-1], Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(
                shown, np.asarray(expected.resize(size[::-1], Image.Resampling.BICUBIC))
            )
