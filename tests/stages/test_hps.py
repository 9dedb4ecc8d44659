"""The preference score: open_clip's own cosines, the worst frame, and captions that are missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from captioner.engines.base import Question
from captioner.engines.sidecar import SidecarEngine
from captioner.settings import CaptionConfig
from curation.errors import ConfigError, UnsupportedMediaError
from curation.pipeline.models import resolve_revision
from curation.records import Sample
from curation.stage import Media, Setup
from generated import a_source, texture
from stages.hps import HpsConfig, HpsStage, load_checkpoint

MODEL = "ViT-S-32-alt"


def media(frames, **carried):
    source = replace(a_source(kind="image"), metadata=carried)
    return Media(source, np.stack(frames), np.arange(float(len(frames))))


SAMPLE = Sample.of_image(a_source(kind="image"))


def score(stage, *frames, caption="a picture"):
    return stage.measure([SAMPLE], [media(frames, caption=caption)])[0]["hps_score"]


def ready(**settings):
    stage = HpsStage(HpsConfig(**settings))
    stage.setup(Setup("cpu", {ref.role: resolve_revision(ref) for ref in stage.models()}))
    return stage


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small CLIP with random weights, in the format of HPSv2's checkpoints."""
    torch.manual_seed(1)
    clip = open_clip.create_model(MODEL)
    path = tmp_path_factory.mktemp("hps") / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": clip.state_dict()}, path)
    return path, clip.eval()


@pytest.mark.slow
def test_score_is_open_clips_cosine(checkpoint):
    path, clip = checkpoint
    picture, caption = texture(300, 260, seed=1), "a photo of pebbles"
    stage = ready(model=MODEL, weights=str(path.parent))
    preprocess, tokenize = open_clip.image_transform(224, is_train=False), open_clip.get_tokenizer(MODEL)
    with torch.inference_mode():
        # Both features come normalised: their product is the cosine, times exp(logit_scale) the logit.
        image, text, _ = clip(preprocess(Image.fromarray(picture))[None], tokenize([caption]))
    assert score(stage, picture, caption=caption) == pytest.approx(float(image[0] @ text[0]), abs=1e-6)
    assert score(stage, picture, caption="something else") != score(stage, picture, caption=caption)


def test_worst_frame_counts():
    stage = ready(weights="stand-in")
    frames = [texture(224, 224, seed=seed) for seed in range(3)]
    singles = [score(stage, frame) for frame in frames]
    assert len(set(singles)) == 3
    # Three in one product add up in another order than each alone, on some processors.
    assert score(stage, *frames) == pytest.approx(min(singles), abs=1e-6)


@pytest.mark.parametrize("carried", [{}, {"caption": " "}, {"caption": 3}, {"text": "a cat"}])
def test_without_a_caption_there_is_no_score(carried):
    stage = ready(weights="stand-in")
    with pytest.raises(UnsupportedMediaError, match="came without a 'caption'"):
        stage.measure([SAMPLE], [media([texture(64, 64, seed=0)], **carried)])


def test_caption_may_have_another_name():
    stage = ready(weights="stand-in", prompt_column="TEXT")
    row = stage.measure([SAMPLE], [media([texture(64, 64, seed=0)], TEXT="a cat")])[0]
    assert -1 <= row["hps_score"] <= 1


def test_files_that_are_no_checkpoint_of_the_model(tmp_path, checkpoint):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="no state_dict"):
        load_checkpoint(MODEL, tmp_path / "other.pt")
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=f"not hold the weights of {MODEL}"):
        load_checkpoint(MODEL, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="weights_file"):
        load_checkpoint(MODEL, tmp_path)


def test_one_of_several_captions_is_the_prompt_that_the_captioner_draws():
    texts = ["a cat", "a dog", "a bird"]
    stages = [HpsStage(HpsConfig(weights="stand-in", seed=seed)) for seed in range(20)]
    source = replace(a_source(kind="image"), metadata={"caption": texts})
    prompts = [stage._prompt(SAMPLE, source) for stage in stages]
    drawn = [
        SidecarEngine(CaptionConfig(engine="sidecar", column="caption", seed=seed))
        .answer(
            [
                Question(
                    "",
                    np.zeros((1, 4, 4, 3), np.uint8),
                    "image",
                    0.0,
                    metadata=source.metadata,
                    sample_id=SAMPLE.sample_id,
                )
            ]
        )[0]
        .text
        for seed in range(20)
    ]
    assert prompts == drawn
    assert set(prompts) == set(texts)
