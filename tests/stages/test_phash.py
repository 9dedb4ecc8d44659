"""Perceptual hashes: bit for bit those of ImageHash, and near for pictures that look the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from curation.errors import DecodeError
from curation.execution.worker.measure import isolate
from curation.stage import View
from curation.stages.phash import PhashConfig, PhashStage
from generated import a_sample, measured, media_of, raises, texture

STAGE = PhashStage(PhashConfig())

IMAGEHASH = {
    # (height, width, seed, cell) of `texture`: str(imagehash.phash(Image.fromarray(...))), ImageHash 4.3.2.
    (256, 300, 0, 60): "a7b2eda3074af049",
    (480, 360, 1, 8): "dc33776459704d38",
    (64, 64, 2, 16): "b4f106a575537552",
    (33, 257, 3, 5): "df1f261fd6633100",
}


def hash_of(*frames):
    (row,) = measured(STAGE, media_of(frames))
    return row["phash"]


def distance(one, other):
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


@pytest.mark.parametrize(("made", "known"), IMAGEHASH.items())
def test_hash_is_that_of_imagehash(made, known):
    height, width, seed, cell = made
    assert hash_of(texture(height, width, seed=seed, cell=cell)).hex() == known


def test_same_picture_is_near_and_another_far():
    picture = Image.fromarray(texture(400, 600, cell=90))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=40)
    known = hash_of(np.asarray(picture))
    for same in (
        picture.resize((300, 200)),
        picture.resize((900, 640), Image.Resampling.NEAREST),
        Image.open(file),
        picture.point(lambda value: value * 0.8 + 20),
    ):
        assert distance(known, hash_of(np.asarray(same.convert("RGB")))) <= 4
    for seed in range(1, 6):
        assert distance(known, hash_of(texture(400, 600, cell=90, seed=seed))) >= 16


def test_a_clip_has_a_hash_per_frame_in_order():
    frames = [texture(64, 96, seed=seed) for seed in range(3)]
    assert hash_of(*frames) == b"".join(hash_of(frame) for frame in frames)
    assert STAGE.view("clip") == View(count=3, short_side=256)
    assert STAGE.view("image").count == 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 700, 3), (37, 51, 3)])
def test_black_and_odd_sizes(shape):
    assert len(hash_of(np.zeros(shape, np.uint8))) == 8


def test_a_batch_equals_its_samples():
    media = [media_of([texture(31, 40, seed=k)]) for k in range(3)]
    assert measured(STAGE, *media) == [measured(STAGE, item)[0] for item in media]


def test_a_broken_image_is_failed():
    (row,) = isolate(STAGE, [a_sample()], raises(DecodeError("image file is truncated")))
    assert (row.values, row.error_type) == ({}, "DecodeError")
