"""Thumbnails: a JPEG of the frame in the middle."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from curation.errors import DecodeError
from curation.execution.worker.measure import isolate
from curation.media.resize import resize
from curation.media.views import GridCollector
from curation.stages.thumbnail import ThumbnailConfig, ThumbnailStage
from generated import a_sample, a_source, frames_at, measured, media_of, raises, texture

STAGE = ThumbnailStage(ThumbnailConfig())


def thumbnail_of(media, stage=STAGE):
    (row,) = measured(stage, media)
    return Image.open(io.BytesIO(row["thumbnail"]))


def test_it_is_a_jpeg_of_the_frame():
    frame = texture(96, 144, cell=24)
    image = thumbnail_of(media_of([frame]))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (144, 96))
    assert np.abs(np.asarray(image).astype(int) - frame).mean() < 5


def test_red_stays_red():
    red = np.full((32, 32, 3), (220, 20, 10), np.uint8)
    assert np.asarray(thumbnail_of(media_of([red]))).mean(axis=(0, 1)) == pytest.approx([220, 20, 10], abs=4)


def test_the_view_is_small():
    view = STAGE.view("image")
    assert resize(texture(480, 640), view).shape == (96, 128, 3)
    large = ThumbnailStage(ThumbnailConfig(short_side=200)).view("clip")
    assert resize(texture(480, 640), large).shape[:2] == (200, 267)


def test_of_a_clip_it_shows_the_middle():
    view = STAGE.view("clip")
    collector = GridCollector([view])
    for frame in frames_at(k / 25 for k in range(200)):
        collector.push(frame)
    collector.finish(8.0)
    media = collector.media(view, a_source(), a_sample(2.0, 6.0))
    # The middle of [2, 6) is 4 s, frame 100.
    assert np.asarray(thumbnail_of(media))[0, 0].tolist() == pytest.approx([100, 0, 7], abs=6)


def test_quality_costs_bytes():
    media = media_of([texture(96, 96, cell=2)])
    sizes = [
        len(measured(ThumbnailStage(ThumbnailConfig(quality=quality)), media)[0]["thumbnail"])
        for quality in (20, 75, 95)
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 333, 3), (96, 97, 3)])
def test_black_and_odd_sizes(shape):
    image = thumbnail_of(media_of([np.zeros(shape, np.uint8)]))
    assert image.size == (shape[1], shape[0])
    assert np.asarray(image).max() == 0


def test_a_batch_equals_its_samples():
    media = [media_of([texture(31, 40, seed=k)]) for k in range(3)]
    assert measured(STAGE, *media) == [measured(STAGE, item)[0] for item in media]


def test_nothing_is_rejected():
    assert STAGE.thresholds() == {}
    assert STAGE.reject_reason(measured(STAGE, media_of([texture(16, 16)]))[0]) is None


def test_a_broken_image_has_no_thumbnail():
    (row,) = isolate(STAGE, [a_sample()], raises(DecodeError("image file is truncated")))
    assert (row.values, row.error_type) == ({}, "DecodeError")
