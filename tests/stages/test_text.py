"""Text: areas by hand, drawn words for the detector, and PaddleOCR's areas on drawn and real pictures."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFont

from curation.errors import ConfigError, DecodeError
from curation.execution.worker.measure import isolate
from curation.media.image import read_image
from curation.media.resize import resize
from curation.pipeline.models import resolve_revision
from curation.stage import Setup, View
from curation.stages.text import TextConfig, TextStage, network_size, union_coverage
from generated import a_sample, expected, measured, media_of, raises, texture
from pages import LINES, PADDLE_COVERAGE, PAGES, outline, page


def ready(**settings):
    stage = TextStage(TextConfig(**settings))
    revisions = {ref.role: resolve_revision(ref) for ref in stage.models()}
    stage.setup(Setup(device="cpu", revisions=revisions))
    return stage


@pytest.fixture(scope="module")
def stage():
    return ready()


@pytest.fixture(scope="module")
def detector():
    """The detector alone, as PaddleOCR's TextDetection is."""
    return ready(recognizer=None)


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


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 1, 3), (257, 131, 3), (54, 1167, 3), (8, 900, 3)])
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


@pytest.mark.parametrize(
    ("size", "max_side", "expected_size"),
    [
        ((256, 456), 960, (256, 448)),  # 14.25 times 32
        ((48, 80), 960, (64, 64)),  # 1.5 and 2.5 times 32: halves go to the even number
        ((512, 512), 960, (512, 512)),
        ((1210, 2856), 960, (416, 960)),  # 406.7 rounded down is 12.69 times 32
        ((2856, 1210), 960, (960, 416)),
        ((54, 1167), 960, (32, 960)),
        ((3, 4000), 960, (32, 960)),  # never less than 32
        ((1, 1), 960, (32, 32)),
        ((512, 512), 256, (256, 256)),
    ],
)
def test_sizes_of_the_network_are_paddleocrs(size, max_side, expected_size):
    """By hand, from the rule that PaddleOCR states for limit_type "max"."""
    assert network_size(*size, max_side) == expected_size


@pytest.mark.parametrize("name", PAGES)
def test_drawn_pages_agree_with_paddleocr(detector, name):
    assert row_of(detector, PAGES[name])["text_coverage"] == pytest.approx(PADDLE_COVERAGE[name], abs=0.001)


def test_real_images_agree_with_paddleocr(detector, shared_data):
    """text_area_ppocrv4: TextDetection on the same weights in Paddle's format.

    Pixels as PaddleOCR reads them, without color profiles: sk_page.png has one.
    """
    values = expected(shared_data)["text_area_ppocrv4"]["values"]
    names = [name for name in values if not name.endswith(".mp4")]
    assert len(names) == 16
    for name in names:
        pixels = np.asarray(Image.open(shared_data / "image" / name).convert("RGB"))
        row = row_of(detector, resize(pixels, detector.view("image")))
        num_boxes, union, _ = values[name]
        assert row["text_coverage"] == pytest.approx(union, abs=0.001), name
        assert row["num_text_boxes"] == num_boxes, name


def test_video_frames_agree_with_paddleocr(detector, shared_data):
    """The same at the videos' own size."""
    values = expected(shared_data)["text_area_ppocrv4"]["values"]
    names = [name for name in values if name.endswith(".mp4")]
    assert len(names) == 6
    for name in names:
        frames = frames_of(shared_data / "video" / name, [row[0] for row in values[name]])
        for number, _, union, _ in values[name]:
            row = row_of(detector, frames[number])
            assert row["text_coverage"] == pytest.approx(union, abs=0.01), (name, number)


def frames_of(path: Path, numbers: list[int]) -> dict[int, np.ndarray]:
    with av.open(str(path)) as file:
        frames = enumerate(file.decode(video=0))
        return {number: frame.to_ndarray(format="rgb24") for number, frame in frames if number in numbers}


@pytest.mark.parametrize("kind", ["ring", "frame"])
def test_large_boxes_count_only_where_something_is_read(stage, detector, kind):
    alarm = row_of(detector, outline(kind))
    assert alarm["text_coverage"] > 0.2
    assert row_of(stage, outline(kind))["num_text_boxes"] == 0
    # A box that is not large counts unread.
    size = alarm["text_coverage"]
    assert row_of(ready(max_unread_box=size + 0.01), outline(kind))["num_text_boxes"] == 1
    assert row_of(ready(max_unread_box=size - 0.01), outline(kind))["num_text_boxes"] == 0


@pytest.mark.parametrize("word", ["SALE", "2024", "END", "No 1"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_large_words_are_read(stage, detector, word, turns):
    picture = np.rot90(page(word, size=110, height=180), turns)
    row = row_of(stage, picture)
    assert row["text_coverage"] > 0.2
    assert row == row_of(detector, picture)


def test_every_box_is_read_if_asked(detector):
    """Lines of words all hold something to read."""
    picture = page(*LINES)
    assert row_of(ready(max_unread_box=0.0), picture) == row_of(detector, picture)


def test_pictures_without_text(stage, shared_data):
    """Looked at by hand. The detector alone finds 28 % of text on the saucer of sk_coffee.png."""
    free = ["sk_astronaut.png", "sk_camera.png", "sk_coffee.png", "sk_color.png", "sk_grass.png"]
    free += [
        "sk_retina.jpg",
        "sk_rocket.jpg",
        "skl_flower.jpg",
        "gr_cheetah.jpg",
        "gr_lion.jpg",
        "gr_tower.jpg",
    ]
    free += [
        "iio_wikkie.png",
        "iio_bricks.jpg",
        "mmcv_color_exif.jpg",
        "pil_transparent.png",
        "pil_iss634.webp",
    ]
    for name in free:
        pixels = read_image(shared_data / "image" / name)
        assert row_of(stage, resize(pixels, stage.view("image")))["text_coverage"] < 0.05, name
