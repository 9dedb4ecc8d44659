"""The preference score: open_clip's own cosines, the worst frame, and captions that are missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from curation.captioner.engines.base import Question
from curation.captioner.engines.sidecar import SidecarEngine
from curation.captioner.settings import CaptionConfig
from curation.errors import ConfigError, UnsupportedMediaError
from curation.pipeline.models import resolve_revision
from curation.records import Sample
from curation.stage import Media, Setup
from curation.stages.hps import HpsConfig, HpsStage, load_checkpoint
from generated import a_source, measured, texture

MODEL = "ViT-S-32-alt"


def media(frames, **carried):
    source = replace(a_source(kind="image"), metadata=carried)
    return Media(source, np.stack(frames), np.arange(float(len(frames))))


SAMPLE = Sample.of_image(a_source(kind="image"))


def score(stage, *frames, caption="a picture"):
    return measured(stage, media(frames, caption=caption))[0]["hps_score"]


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


def test_a_batch_equals_its_samples_and_one_without_a_caption_spoils_none():
    stage = ready(weights="stand-in")
    captions = ["a cat", None, "a dog on a table", "  ", "pebbles"]
    items = [
        media(
            [texture(230 + number, 300, seed=10 * number + part) for part in range(number % 3 + 1)],
            **({} if caption is None else {"caption": caption}),
        )
        for number, caption in enumerate(captions)
    ]
    rows = measured(stage, *items)
    assert [isinstance(row, UnsupportedMediaError) for row in rows] == [False, True, False, True, False]
    for item, row in zip(items, rows, strict=True):
        (alone,) = measured(stage, item)
        assert (alone == row) or (str(alone) == str(row) and isinstance(row, UnsupportedMediaError))
    swapped = replace(items[0], source=items[4].source)
    assert measured(stage, swapped) != [rows[0]]


@pytest.mark.parametrize("carried", [{}, {"caption": " "}, {"caption": 3}, {"text": "a cat"}])
def test_without_a_caption_there_is_no_score(carried):
    (row,) = measured(ready(weights="stand-in"), media([texture(64, 64, seed=0)], **carried))
    assert isinstance(row, UnsupportedMediaError)
    assert "came without a 'caption'" in str(row)


def test_caption_may_have_another_name():
    stage = ready(weights="stand-in", prompt_column="TEXT")
    (row,) = measured(stage, media([texture(64, 64, seed=0)], TEXT="a cat"))
    assert -1 <= row["hps_score"] <= 1


@pytest.mark.slow
def test_precision_reaches_both_towers(checkpoint):
    """bfloat16 keeps 8 bits: a cosine moves, but not far. On a CPU TF32 is IEEE's float32."""
    path, _ = checkpoint
    frames = [texture(224, 224, seed=seed) for seed in range(2)]
    stages = {
        precision: ready(model=MODEL, weights=str(path.parent), precision=precision)
        for precision in ("fp32", "tf32", "bf16")
    }
    found = {precision: score(stage, *frames) for precision, stage in stages.items()}
    assert found["fp32"] == found["tf32"]
    assert 0 < abs(found["fp32"] - found["bf16"]) < 0.01
    texts = [stages[precision]._embed_texts(["a cat"]) for precision in ("fp32", "bf16")]
    assert 0 < float((texts[0] - texts[1]).abs().max()) < 0.02


def test_precision_is_stated_and_changes_the_fingerprint_but_where_numbers_are_those_of_before():
    stages = [HpsStage(HpsConfig(precision=precision)) for precision in ("fp32", "tf32", "bf16")]
    settings = [stage.measure_settings() for stage in stages]
    assert [item.pop("precision", None) for item in settings] == ["fp32", None, "bf16"]
    assert settings[0] == settings[1] == settings[2]
    said = [stage.models()[0].precision for stage in stages]
    assert len(set(said)) == 3
    assert None not in said


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
