"""Text: areas by hand, drawn words for the detector, and PaddleOCR's areas on real images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from curation.errors import ConfigError, DecodeError
from curation.measure import isolate
from curation.media.image import read_image
from curation.media.resize import resize
from curation.models import resolve_revision
from curation.stage import Setup, View
from generated import a_sample, expected, measured, media_of, raises, texture
from stages.text import TextConfig, TextStage, union_coverage


def ready(**settings):
    stage = TextStage(TextConfig(**settings))
    revisions = {ref.role: resolve_revision(ref) for ref in stage.models()}
    stage.setup(Setup(device="cpu", revisions=revisions))
    return stage


@pytest.fixture(scope="module")
def stage():
    return ready()


def page(*lines, size=28, height=256, width=384):
    """Black words on white, one line below the other."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((16, 12 + number * (size + 18)), line, "black", ImageFont.load_default(size))
    return np.asarray(image)


LINES = ("Curated data", "makes models", "learn faster", "every day")
BLANK = page()


def row_of(stage, *frames):
    (row,) = measured(stage, media_of(frames))
    return row


def box(left, top, width, height):
    return np.array(
        [[left, top], [left + width, top], [left + width, top + height], [left, top + height]], np.float32
    )


# A drawn polygon holds its border pixels: boxes of 200 by 100 come out up to 1.5 % larger.


@pytest.mark.parametrize(
    ("boxes", "share"),
    [
        ([], 0.0),
        ([box(100, 100, 200, 100)], 0.02),
        ([box(100, 100, 200, 100)] * 3, 0.02),  # the same area, three times
        ([box(100, 100, 200, 100), box(200, 100, 200, 100)], 0.03),  # half of it shared
        ([box(100, 100, 200, 100), box(500, 500, 200, 100)], 0.04),
        ([box(100, 100, 400, 400), box(200, 200, 200, 100)], 0.16),  # one inside the other
        ([box(900, 450, 200, 100)], 0.01),  # half outside
        ([box(-50, -50, 2000, 2000)], 1.0),
        ([np.array([[500, 100], [700, 300], [500, 500], [300, 300]])], 0.08),  # a diamond
    ],
)
def test_coverage_is_the_area_of_the_union(boxes, share):
    assert union_coverage(boxes, 1000, 1000) == pytest.approx(share, rel=0.016)


def test_coverage_is_relative_to_the_frame():
    assert union_coverage([box(0, 0, 99, 49)], 100, 200) == 0.25  # 100 by 50 pixels, borders included
    assert union_coverage([box(0, 0, 99, 49)], 50, 100) == 1.0


def test_drawn_words_are_found_and_blanks_are_not(stage):
    row = row_of(stage, page("Hello world"))
    left, top, right, bottom = ImageFont.load_default(28).getbbox("Hello world")
    ink = (right - left) * (bottom - top) / (256 * 384)
    assert ink / 2 < row["text_coverage"] < ink * 3
    assert row["num_text_boxes"] >= 1
    assert row["text_frame_fraction"] == 1.0
    blank = {"text_coverage": 0.0, "text_coverage_mean": 0.0, "text_frame_fraction": 0.0, "num_text_boxes": 0}
    assert row_of(stage, BLANK) == blank
    assert row_of(stage, np.zeros((256, 384, 3), np.uint8)) == blank


def test_more_text_scores_higher(stage):
    rows = [row_of(stage, page(*LINES[:number])) for number in range(5)]
    scores = [row["text_coverage"] for row in rows]
    assert scores == sorted(set(scores))
    assert [row["num_text_boxes"] for row in rows] == sorted(row["num_text_boxes"] for row in rows)


def test_size_does_not_matter_much(stage):
    large = page(*LINES, size=56, height=512, width=768)
    small = resize(large, View(short_side=256))
    assert row_of(stage, small)["text_coverage"] == pytest.approx(
        row_of(stage, large)["text_coverage"], rel=0.35
    )


def test_light_on_dark_is_text_too(stage):
    dark = 255 - page(*LINES)
    bright = row_of(stage, page(*LINES))["text_coverage"]
    assert row_of(stage, dark)["text_coverage"] == pytest.approx(bright, rel=0.35)


def test_a_clip_is_its_fullest_frame(stage):
    frames = [BLANK, page(*LINES[:1]), page(*LINES), BLANK]
    alone = [row_of(stage, frame) for frame in frames]
    row = row_of(stage, *frames)
    assert row["text_coverage"] == max(item["text_coverage"] for item in alone) == alone[2]["text_coverage"]
    assert row["text_coverage_mean"] == pytest.approx(np.mean([item["text_coverage"] for item in alone]))
    assert row["text_frame_fraction"] == 0.5
    assert row["num_text_boxes"] == sum(item["num_text_boxes"] for item in alone)


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 1, 3), (257, 131, 3), (54, 1167, 3)])
def test_odd_sizes(stage, shape):
    assert 0 <= row_of(stage, texture(*shape[:2]))["text_coverage"] <= 1


def test_a_box_must_be_sure_enough():
    # No box is as sure as that, and every box is surer than nothing.
    assert row_of(ready(min_box_score=1.0), page(*LINES))["num_text_boxes"] == 0
    assert row_of(ready(min_box_score=0.0), page(*LINES))["num_text_boxes"] >= len(LINES)


def test_a_batch_equals_its_samples(stage):
    media = [media_of([page(*LINES[:number]), BLANK]) for number in (3, 0, 1)]
    assert measured(stage, *media) == [measured(stage, item)[0] for item in media]


@pytest.mark.parametrize(("score", "reason"), [(0.1, None), (0.1001, "text_coverage_above_max"), (0.0, None)])
def test_exactly_at_the_threshold_is_kept(score, reason):
    assert TextStage(TextConfig(max_text_coverage=0.1)).reject_reason({"text_coverage": score}) == reason
    assert TextStage(TextConfig(max_text_coverage=None)).reject_reason({"text_coverage": 1.0}) is None


def test_the_views_follow_the_settings():
    stage = TextStage(TextConfig(fps=1.0, short_side=128, image_short_side=300))
    assert stage.view("clip") == View(fps=1.0, short_side=128)
    assert stage.view("image") == View(short_side=300)


def test_a_broken_image_is_failed_not_free_of_text(stage):
    (row,) = isolate(stage, [a_sample()], raises(DecodeError("image file is truncated")))
    assert (row.values, row.error_type) == ({}, "DecodeError")


def test_another_detector_than_planned_is_refused():
    with pytest.raises(ConfigError, match="differs"):
        TextStage(TextConfig()).setup(Setup(device="cpu", revisions={"detector": "0" * 64}))


def test_real_images_agree_with_paddleocr(stage, shared_data):
    """text_area_ppocrv4: another PP-OCR generation at another size, so alike within a factor of two."""
    values = expected(shared_data)["text_area_ppocrv4"]["values"]
    full = ["rocr_ch_en_num.jpg", "sk_page.png", "nemo_ablation.png", "rocr_japan.jpg", "rocr_devanagari.jpg"]
    full += ["rocr_text_vertical_words.png", "rocr_return_word_debug.jpg", "oc_clipa_acc_compute.png"]
    free = ["rocr_empty_black.jpg", "sk_astronaut.png", "skl_flower.jpg"]
    for name in [*full, *free]:
        pixels = read_image(shared_data / "image" / name)
        row = row_of(stage, resize(pixels, stage.view("image")))
        _, union, _ = values[name]
        assert union / 2 <= row["text_coverage"] <= union * 2, name
        assert (row["text_coverage"] == 0) == (name in free), name
