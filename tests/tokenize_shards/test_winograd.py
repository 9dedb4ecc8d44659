"""Winograd's convolution. The reference is torch's own, in float64; transformers for the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from curation.tokenize_shards.vision.emu3 import Emu3Tokenizer
from curation.tokenize_shards.vision.layers.winograd import WinogradConv, speed_up
from curation.tokenize_shards.vision.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("channels", "outputs", "height", "width"),
    [(8, 12, 16, 16), (12, 8, 5, 9), (3, 4, 1, 1), (16, 16, 2, 70), (8, 8, 130, 40)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_convolution_up_to_rounding(
    channels: int, outputs: int, height: int, width: int, bias: bool
) -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(channels, outputs, 3, padding=1, bias=bias)
    pictures = torch.randn(2, channels, height, width)
    with torch.inference_mode():
        direct, found = convolution(pictures), WinogradConv(convolution)(pictures)
        exact = convolution.double()(pictures.double())
    assert found.shape == direct.shape
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-5)
    # As a whole no worse than a few times float32's own rounding.
    assert (found - exact).square().mean().sqrt() < 8 * (direct - exact).square().mean().sqrt() + 1e-7


def test_pictures_do_not_depend_on_their_neighbors() -> None:
    torch.manual_seed(0)
    convolution = WinogradConv(torch.nn.Conv2d(8, 8, 3, padding=1))
    pictures = torch.randn(3, 8, 20, 28)
    with torch.inference_mode():
        assert torch.equal(convolution(pictures), torch.cat([convolution(part[None]) for part in pictures]))


def test_only_fitting_convolutions_are_replaced() -> None:
    fits = torch.nn.Conv2d(128, 128, 3, padding=1)
    others = [
        torch.nn.Conv2d(64, 128, 3, padding=1),
        torch.nn.Conv2d(128, 128, 3, padding=0),
        torch.nn.Conv2d(128, 128, 3, padding=1, stride=2),
        torch.nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        torch.nn.Conv2d(128, 128, 1),
        torch.nn.Conv2d(128, 128, 3, padding=1, groups=2),
    ]
    model = torch.nn.Sequential(torch.nn.Sequential(fits), *others)
    speed_up(model)
    assert isinstance(model[0][0], WinogradConv)
    assert [type(module) for module in model[1:]] == [torch.nn.Conv2d] * len(others)


@pytest.fixture(scope="module")
def wide() -> Any:
    """A tokenizer wide enough for Winograd, untrained."""
    config = Emu3VQVAEConfig(
        base_channels=128,
        channel_multiplier=(1, 1, 1, 1),
        num_res_blocks=1,
        attn_resolutions=(),
        hidden_size=128,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Emu3VQVAE(config).eval()


@pytest.mark.parametrize("count", [1, 4])
def test_codes_stay_the_same(wide: Any, tmp_path: Path, count: int) -> None:
    wide.save_pretrained(tmp_path)
    fast = load_tokenizer(tmp_path, "cpu", decodes=True)
    assert isinstance(fast, Emu3Tokenizer)
    assert sum(isinstance(module, WinogradConv) for module in fast.model.encoder.modules()) == 12
    frames = np.random.default_rng(0).integers(0, 256, (count, 56, 72, 3)).astype(np.uint8)
    plain = Emu3Tokenizer(wide, "cpu")
    (expected,) = plain.encode([frames])
    agreement = (fast.encode([frames])[0] == expected).mean()
    assert agreement > 0.99  # rounding decides ties otherwise
    pixels, plain_pixels = (each.decode(expected, is_image=count == 1) for each in (fast, plain))
    assert np.abs(pixels.astype(int) - plain_pixels).max() <= 1
