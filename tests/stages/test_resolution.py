"""Resolution: what the header says, upright."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from curation.media.image import probe_image
from curation.stage import Media
from curation.stages.resolution import ResolutionConfig, ResolutionStage
from generated import a_source, measured, numbered, turn, write_video

STAGE = ResolutionStage(ResolutionConfig())


def media_with(**header):
    """A stage without a view gets no pixels."""
    return Media(a_source(**header), np.empty((0, 0, 0, 3), np.uint8), np.empty(0))


def test_the_size_is_the_sources():
    assert measured(STAGE, media_with(width=1280, height=719)) == [{"width": 1280, "height": 719}]


def test_it_asks_for_no_pixels():
    assert STAGE.view("image") is None
    assert STAGE.view("clip") is None


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (512, 512, None),
        (511, 512, "width_below_min"),
        (512, 511, "height_below_min"),
        (511, 511, "width_below_min"),
        (4000, 511, "height_below_min"),
    ],
)
def test_exactly_at_the_threshold_is_kept(width, height, reason):
    stage = ResolutionStage(ResolutionConfig(min_width=512, min_height=512))
    (row,) = measured(stage, media_with(width=width, height=height))
    assert stage.reject_reason(row) == reason


def test_a_side_can_be_left_alone():
    row = {"width": 100, "height": 600}
    assert ResolutionStage(ResolutionConfig(min_width=None)).reject_reason(row) is None
    assert ResolutionStage(ResolutionConfig(min_height=None)).reject_reason(row) == "width_below_min"


def test_a_turned_image_counts_upright(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    width, height, _, _ = probe_image(path)
    media = media_with(width=width, height=height, kind="image")
    assert measured(STAGE, media) == [{"width": 20, "height": 30}]


def test_a_turned_video_counts_upright(tmp_path):
    frames = [numbered(k, 48, 64) for k in range(3)]
    path = write_video(tmp_path / "a.mp4", frames, codec="libx264", pix_fmt="yuv420p")
    source = a_source(turn(path, 270))
    media = media_with(width=source.width, height=source.height)
    assert measured(STAGE, media) == [{"width": 48, "height": 64}]


def test_a_batch_equals_its_samples():
    media = [media_with(width=k, height=k + 1) for k in range(1, 4)]
    assert measured(STAGE, *media) == [measured(STAGE, item)[0] for item in media]
