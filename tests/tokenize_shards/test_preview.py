"""Decoded tokens beside the original. SSIM is compared with its definition, window by window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.errors import TokenizeError
from curation.records import Sample, Source
from curation.stage import Media, Setup
from curation.tokenize_shards.vision.emu3 import Emu3Tokenizer
from curation.tokenize_shards.vision.preview import Previewer, psnr, ssim
from curation.tokenize_shards.vision.stage import TokenConfig, TokenStage

SOURCE = Source(source_id="source", uri="file", kind="video", size_bytes=1, etag="1")
IMAGE = Sample(sample_id="image", source_id="source", kind="image")
CLIP = Sample.of_span("source", 0.0, 2.0)
SETUP = Setup("cpu", {"tokenizer": "stand-in"})


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def ssim_by_definition(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Wang et al. 2004, equation 13, in every window of 11 x 11 that fits, for every channel."""
    across = np.arange(-5, 6)
    weights = np.exp(-(across[:, None] ** 2 + across[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for channel in range(3):
        for top in range(first.shape[0] - 10):
            for left in range(first.shape[1] - 10):
                place = (slice(top, top + 11), slice(left, left + 11), channel)
                x, y = first[place].astype(float), second[place].astype(float)
                mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
                var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
                covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
                found.append(
                    (2 * mean_x * mean_y + 6.5025)
                    * (2 * covariance + 58.5225)
                    / ((mean_x**2 + mean_y**2 + 6.5025) * (var_x + var_y + 58.5225))
                )
    return float(np.mean(found))


def test_ssim_equals_its_definition() -> None:
    first = noise(14, 17)
    second = np.clip(first.astype(int) // 2 + noise(14, 17, seed=1) // 4 + 20, 0, 255).astype(np.uint8)
    expected = ssim_by_definition(first, second)
    assert 0.2 < expected < 0.95
    assert ssim(first, second) == pytest.approx(expected, abs=1e-9)


def test_equal_frames() -> None:
    assert ssim(noise(16, 16), noise(16, 16)) == pytest.approx(1)
    assert psnr(noise(1, 16, 16), noise(1, 16, 16)) == 100


def test_psnr_by_hand() -> None:
    # One level off everywhere: 20 log10(255) = 48.13 dB; 255 off: 0 dB.
    dark = np.zeros((1, 8, 8, 3), np.uint8)
    assert psnr(dark, dark + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(dark, dark + 255) == pytest.approx(0)


@pytest.fixture(scope="module")
def stage() -> TokenStage:
    stage = TokenStage(TokenConfig(weights="stand-in"))
    stage.setup(SETUP)
    return stage


@pytest.fixture(scope="module")
def previewer(stage: TokenStage) -> Previewer:
    return Previewer(stage, SETUP)


def media(frames: NDArray[np.uint8]) -> Media:
    return Media(SOURCE, frames, np.arange(len(frames)) / 4)


@pytest.mark.parametrize(
    ("sample", "count", "shown"),
    [(IMAGE, 1, 1), (CLIP, 12, 4), (CLIP, 2, 4)],
    ids=["image", "clip", "short clip"],
)
def test_numbers_are_those_of_the_decoded_frames(
    stage: TokenStage, previewer: Previewer, stand_in: Emu3Tokenizer, sample: Sample, count: int, shown: int
) -> None:
    frames = noise(count, 32, 48)
    (values,) = stage.measure([sample], [media(frames)])
    preview = previewer.preview(sample, media(frames), values)
    held = frames[np.minimum(np.arange(max(4, count)), count - 1)] if sample is CLIP else frames
    decoded = stand_in.decode(*stand_in.encode([held]), is_image=sample is IMAGE)[:shown]
    # First groups are decoded alone: a level may round the other way.
    assert preview.psnr_db == pytest.approx(psnr(held[:shown], decoded), abs=0.01)
    picture = cv2.imdecode(np.frombuffer(preview.png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(picture[22:54, :48], frames[0])
    beside = picture[22:54, 52:100] if shown == 1 else picture[58:90, :48]
    assert np.abs(beside.astype(int) - decoded[0]).max() <= 1


def test_large_frames_are_shrunk(stage: TokenStage, previewer: Previewer) -> None:
    frames = noise(1, 64, 128)
    (values,) = stage.measure([IMAGE], [media(frames)])
    preview = previewer.preview(IMAGE, media(frames), values, max_side_px=32)
    assert cv2.imdecode(np.frombuffer(preview.png, np.uint8), cv2.IMREAD_COLOR).shape[0] == 22 + 16


def test_another_source_is_noticed(stage: TokenStage, previewer: Previewer) -> None:
    (values,) = stage.measure([IMAGE], [media(noise(1, 32, 48))])
    with pytest.raises(TokenizeError, match="the source gives"):
        previewer.preview(IMAGE, media(noise(1, 48, 32)), values)


def test_stand_in_says_so(
    stage: TokenStage, stand_in: Emu3Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(cv2, "putText", lambda page, text, *_: said.append(text))
    frames = noise(1, 32, 48)
    (values,) = stage.measure([IMAGE], [media(frames)])
    Previewer(stage, SETUP).preview(IMAGE, media(frames), values)
    monkeypatch.setattr(
        stage, "models", lambda: [replace(ref, stand_in=False) for ref in TokenStage.models(stage)]
    )
    monkeypatch.setattr(stage, "load", lambda *_, **__: stand_in)
    Previewer(stage, SETUP).preview(IMAGE, media(frames), values)
    assert [text.startswith("UNTRAINED") for text in said] == [True, False]
