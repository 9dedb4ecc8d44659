"""Color: known colorfulness by hand, and as measured with OpenCV on real images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from curation.errors import DecodeError
from curation.execution.worker.measure import isolate
from curation.media.image import read_image
from curation.stages.color import ColorConfig, ColorStage, colorfulness
from generated import a_sample, expected, measured, media_of, raises, texture

STAGE = ColorStage(ColorConfig())
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def halves(left, right, height=4, width=6):
    frame = np.empty((height, width, 3), np.uint8)
    frame[:, : width // 2], frame[:, width // 2 :] = left, right
    return frame


def row_of(*frames):
    (row,) = measured(STAGE, media_of(frames))
    return row


@pytest.mark.parametrize(
    ("left", "right", "by_hand"),
    [
        # rg = R - G, yb = (R + G) / 2 - B; sqrt(var rg + var yb) + 0.3 sqrt(mean rg^2 + mean yb^2)
        (RED, GREEN, 255 + 0.3 * 127.5),
        (WHITE, (0, 0, 0), 0.0),
        (RED, RED, 0.3 * np.hypot(255, 127.5)),
        (BLUE, WHITE, 127.5 + 0.3 * 127.5),
        (RED, BLUE, np.hypot(127.5, 191.25) + 0.3 * np.hypot(127.5, -63.75)),
    ],
)
def test_colorfulness_by_hand(left, right, by_hand):
    assert colorfulness(halves(left, right)) == pytest.approx(by_hand, abs=1e-6)
    assert row_of(halves(left, right))["colorfulness"] == pytest.approx(by_hand, abs=1e-6)


def test_gray_has_no_color_however_bright_its_noise():
    noise = np.repeat(np.random.default_rng(0).integers(0, 256, (33, 47, 1), np.uint8), 3, axis=-1)
    row = row_of(noise)
    assert row["colorfulness"] == 0.0
    assert row["channel_spread"] == 0
    assert row["mean_luma"] == pytest.approx(noise.mean(), abs=1e-3)


def test_spread_and_luma_by_hand():
    row = row_of(halves((10, 60, 30), (100, 100, 90)))
    assert row["channel_spread"] == 50
    # BT.601: 0.299 R + 0.587 G + 0.114 B.
    assert row["mean_luma"] == pytest.approx((41.63 + 98.86) / 2, abs=1e-3)


def test_faded_colors_score_lower():
    vivid = texture(64, 80).astype(float)
    gray = vivid.mean(axis=-1, keepdims=True)
    scores = [
        row_of(np.rint(gray + share * (vivid - gray)).astype(np.uint8))["colorfulness"]
        for share in (0.0, 0.2, 0.5, 1.0)
    ]
    assert scores[0] == 0.0
    assert scores == sorted(scores)
    assert scores[1] < scores[3] / 4


def test_size_and_orientation_do_not_matter():
    frame = texture(40, 60)
    score = row_of(frame)["colorfulness"]
    for same in (np.kron(frame, np.ones((3, 3, 1), np.uint8)), frame[::-1], frame.swapaxes(0, 1)):
        assert row_of(same)["colorfulness"] == pytest.approx(score, rel=1e-5)


def test_a_clip_is_the_mean_of_its_frames():
    frames = [halves(RED, GREEN), halves(WHITE, WHITE), halves(BLUE, WHITE)]
    row = row_of(*frames)
    assert row["colorfulness"] == pytest.approx((255 + 38.25 + 0 + 127.5 + 38.25) / 3, abs=1e-4)
    assert row["channel_spread"] == 255
    assert row["mean_luma"] == pytest.approx(np.mean([row_of(frame)["mean_luma"] for frame in frames]))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 1, 3), (37, 51, 3)])
def test_black_and_odd_sizes(shape):
    row = row_of(np.zeros(shape, np.uint8))
    assert set(row) == set(ColorStage.columns)
    assert set(row.values()) == {0}


def test_a_batch_equals_its_samples():
    media = [media_of([texture(31, 40, seed=k)]) for k in range(3)]
    assert measured(STAGE, *media) == [measured(STAGE, item)[0] for item in media]


@pytest.mark.parametrize(
    ("score", "reason"), [(5.0, None), (4.9999, "colorfulness_below_min"), (5.0001, None)]
)
def test_exactly_at_the_threshold_is_kept(score, reason):
    row = {"colorfulness": score, "untinted_colorfulness": 9.0, "channel_spread": 9, "mean_luma": 9.0}
    assert ColorStage(ColorConfig(min_colorfulness=5.0)).reject_reason(row) == reason
    assert ColorStage(ColorConfig(min_colorfulness=None)).reject_reason(row) is None


def test_a_broken_image_is_failed_not_gray():
    (row,) = isolate(STAGE, [a_sample()], raises(DecodeError("image file is truncated")))
    assert (row.values, row.error_type) == ({}, "DecodeError")


def test_real_images(shared_data):
    """color_stats: OpenCV on the same files, which applies no profiles; its luma is rounded per pixel."""
    known = expected(shared_data)["color_stats"]["values"]
    images = {name: stats for name, stats in known.items() if "hasler_susstrunk" in stats}
    assert len(images) >= 10
    for name, stats in images.items():
        row = row_of(np.asarray(Image.open(shared_data / "image" / name).convert("RGB")))
        assert row["colorfulness"] == pytest.approx(stats["hasler_susstrunk"], rel=1e-3, abs=5e-4), name
        assert row["channel_spread"] == stats["max_channel_spread"], name
        assert row["mean_luma"] == pytest.approx(stats["mean_luma"], abs=0.05), name


def test_real_monochrome_and_colored_images_fall_on_both_sides(shared_data):
    for name, is_kept in {
        "sk_camera.png": False,
        "mmcv_grayscale.jpg": False,
        "rocr_empty_black.jpg": False,  # dark: its HSV saturation is as high as a photo's
        "sk_astronaut.png": True,
        "sk_hubble_deep_field.jpg": True,
    }.items():
        row = row_of(read_image(shared_data / "image" / name))
        assert (STAGE.reject_reason(row) is None) == is_kept, name


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (480, 641), (3000, 4000)])
def test_the_sums_are_those_of_the_formula(size):
    """Hasler and Süsstrunk's definition, written out in float64; also of frames that can't be written to."""
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    frame[..., 2] //= 2
    frame.flags.writeable = False
    red, green, blue = np.moveaxis(frame.astype(np.float64), -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    wanted = spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean())
    row = row_of(frame)
    assert row["colorfulness"] == pytest.approx(wanted, rel=1e-9)
    assert row["channel_spread"] == (frame.max(axis=-1) - frame.min(axis=-1)).max()
    assert row["mean_luma"] == pytest.approx((0.299 * red + 0.587 * green + 0.114 * blue).mean(), rel=1e-9)


def gray_of(frame):
    return (frame @ np.array([0.299, 0.587, 0.114]))[..., np.newaxis] / 255


TINTS = {
    "brown": lambda gray: gray * [200, 150, 100],
    "cyan": lambda gray: gray * [80, 220, 255],
    "duotone": lambda gray: (1 - gray) * [20, 0, 60] + gray * [255, 220, 150],
    # The usual sepia matrix on gray: its rows sum to 1.351, 1.203 and 0.937, and red and green clip.
    "sepia": lambda gray: np.clip(gray * 255 * [1.351, 1.203, 0.937], 0, 255),
}


@pytest.mark.parametrize("tint", TINTS)
@pytest.mark.parametrize("quality", [None, 75])
def test_tinted_gray_counts_as_monochrome_however_colorful(tint, quality):
    photo = texture(600, 800, cell=60)
    tinted = TINTS[tint](gray_of(photo)).astype(np.uint8)
    if quality:
        file = io.BytesIO()
        Image.fromarray(tinted).save(file, "JPEG", quality=quality)
        tinted = np.asarray(Image.open(file))
    row = row_of(tinted)
    assert row["colorfulness"] > 10
    assert STAGE.reject_reason(row) == "untinted_colorfulness_below_min"
    assert STAGE.reject_reason(row_of(photo)) is None


def test_untinted_colorfulness_by_hand():
    # Luma 26.9 and 29.1: both in 24..32, the same of 32 levels. rg is 90 and 0, yb 45 and -255.
    row = row_of(halves((90, 0, 0), BLUE))
    assert row["untinted_colorfulness"] == pytest.approx(np.hypot(45, 150), rel=1e-6)
    # Colors that differ in luma alone explain each other.
    assert row_of(halves((200, 0, 0), (0, 255, 0)))["untinted_colorfulness"] == 0


def test_real_photos_with_a_tint_fall_on_the_other_side(shared_data):
    for name in ("sk_astronaut.png", "mpl_grace_hopper.jpg", "skl_flower.jpg", "gr_cheetah.jpg"):
        photo = read_image(shared_data / "image" / name)
        assert STAGE.reject_reason(row_of(photo)) is None, name
        for tint in TINTS.values():
            row = row_of(tint(gray_of(photo)).astype(np.uint8))
            assert STAGE.reject_reason(row) == "untinted_colorfulness_below_min", name
