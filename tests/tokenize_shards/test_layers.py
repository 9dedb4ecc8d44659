"""Layers in place of torch's own. The reference is torch's own, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from curation.tokenize_shards.vision.layers.norm import MomentNorm
from curation.tokenize_shards.vision.layers.products import ProductConv
from curation.tokenize_shards.vision.layers.threefold import ThreefoldConv, ThreefoldLinear, halves
from curation.tokenize_shards.vision.spatial import _compiled

LAST = torch.channels_last


def rounded(values: torch.Tensor, bits: int = 11) -> torch.Tensor:
    """The nearest numbers of so many significant bits (TF32: 1 + 10), halves away from zero, in float64."""
    mantissa, exponent = np.frexp(values.detach().double().numpy())
    whole = np.copysign(np.floor(np.abs(mantissa) * 2**bits + 0.5), mantissa)
    return torch.from_numpy(np.ldexp(whole / 2**bits, exponent))


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square, relative to that of the exact numbers."""
    return float((found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def convolution(channels: int, outputs: int, size: int = 3, stride: int = 1, padding: int = 1) -> Any:
    torch.manual_seed(0)
    return torch.nn.Conv2d(channels, outputs, size, stride, padding)


# Every kind that Emu3's encoder and decoder have: 3 x 3, of stride 2 behind a padding of its own, and 1 x 1.
KINDS = [
    pytest.param({"channels": 24, "outputs": 12}, id="3x3"),
    pytest.param({"channels": 3, "outputs": 8}, id="of pixels"),
    pytest.param({"channels": 8, "outputs": 8, "stride": 2, "padding": 0}, id="stride 2"),
    pytest.param({"channels": 8, "outputs": 4, "size": 1, "padding": 0}, id="1x1"),
]


@torch.inference_mode()
@pytest.mark.parametrize("layer", [ProductConv, ThreefoldConv])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (5, 9), (3, 3), (31, 64)])
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
def test_convolutions_equal_torch_up_to_rounding(
    layer: Any, kind: dict[str, int], height: int, width: int, layout: Any
) -> None:
    direct = convolution(**kind)
    pictures = torch.randn(3, kind["channels"], height, width).contiguous(memory_format=layout)
    found = layer(direct)(pictures)
    exact = functional.conv2d(
        pictures.double(), direct.weight.double(), direct.bias.double(), direct.stride, direct.padding
    )
    assert found.shape == exact.shape
    assert found.dtype == torch.float32
    assert relative_error(found, exact) < 5e-7


@torch.inference_mode()
def test_convolution_without_bias_adds_none() -> None:
    direct = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False)
    assert not ProductConv(direct)(torch.zeros(1, 4, 5, 5)).any()
    assert not ThreefoldConv(direct)(torch.zeros(1, 4, 5, 5)).any()


@torch.inference_mode()
def test_products_of_a_picture_do_not_depend_on_its_neighbors() -> None:
    layer = ProductConv(convolution(16, 16))
    pictures = torch.randn(3, 16, 17, 23).contiguous(memory_format=LAST)
    together = layer(pictures)
    for number in range(3):
        assert torch.equal(layer(pictures[number : number + 1])[0], together[number])
    assert together.is_contiguous(memory_format=LAST)


def test_halves_are_tf32_numbers_and_add_up_exactly() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-20, 20, 10_000)
    high, low = halves(values)
    torch.testing.assert_close(high.double(), rounded(values), rtol=0, atol=0)
    torch.testing.assert_close(high.double() + low.double(), values.double(), rtol=0, atol=0)
    assert (low.abs() <= values.abs() * 2**-11).all()


@torch.inference_mode()
def test_three_products_of_tf32_numbers_are_nearly_as_exact_as_float32() -> None:
    # What a GPU computes: operands rounded to TF32. Sums are in float64, so that only that rounding counts.
    direct = convolution(64, 64)
    pictures = torch.randn(1, 64, 32, 32)
    exact = functional.conv2d(pictures.double(), direct.weight.double(), padding=1)

    def on_tf32_units(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(rounded(inputs), rounded(weight), padding=1)

    parts = [halves(pictures), halves(direct.weight)]
    products = [on_tf32_units(parts[0][x], parts[1][w]) for x, w in ((0, 0), (0, 1), (1, 0))]
    # Two operands, each off by up to 2^-11 relatively, 2.8e-4 on average of a mantissa; hence near 3e-4.
    assert 1e-4 < relative_error(on_tf32_units(pictures, direct.weight), exact) < 1e-3
    assert relative_error(sum(products, start=torch.zeros(())), exact) < 1e-6
    assert relative_error(sum(products[:2], start=torch.zeros(())), exact) > 5e-5  # each of the three counts


@torch.inference_mode()
def test_threefold_layers_multiply_tf32_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # A factor that is no TF32 number would be rounded by a GPU, without a word. The low parts' are: by 2^-11
    # of themselves.
    seen: list[torch.Tensor] = []
    for name in ("conv2d", "linear"):
        own = getattr(functional, name)
        monkeypatch.setattr(
            functional, name, lambda *given, own=own: (seen.extend(given[:2]), own(*given))[1]
        )
    ThreefoldConv(convolution(8, 8))(torch.randn(1, 8, 4, 4))
    ThreefoldLinear(torch.nn.Linear(8, 8))(torch.randn(1, 5, 8))
    assert len(seen) == 4
    for operand, dim in zip(seen, (1, 1, -1, 1), strict=True):
        high = [part for part in operand.chunk(3, dim) if torch.equal(part.double(), rounded(part))]
        assert len(high) == 2


@torch.inference_mode()
def test_threefold_linear_equals_torch_up_to_rounding() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 40)
    inputs = torch.randn(2, 7, 96)
    exact = functional.linear(inputs.double(), linear.weight.double(), linear.bias.double())
    assert relative_error(ThreefoldLinear(linear)(inputs), exact) < 3e-7


@torch.inference_mode()
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_norm_is_exact_in_either_layout(layout: Any, offset: float) -> None:
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(32, 64, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    pictures = (torch.randn(2, 64, 40, 24) + offset).contiguous(memory_format=layout)
    exact = functional.group_norm(pictures.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps)
    found = MomentNorm(norm)(pictures)
    assert found.is_contiguous(memory_format=layout)
    assert relative_error(found, exact) < 1e-6 * (1 + offset)
    assert MomentNorm(norm)(pictures.bfloat16()).dtype == torch.float32


@pytest.mark.slow
@torch.inference_mode()
def test_layers_are_the_same_when_they_are_built_by_a_gpus_backend() -> None:
    # A compiler that took the sum of both halves for what it is would undo them.
    layers = torch.nn.Sequential(
        MomentNorm(torch.nn.GroupNorm(8, 16)),
        ThreefoldConv(convolution(16, 16)),
        ProductConv(convolution(16, 8)),
    )

    def compute(pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*halves(pictures), layers(pictures))

    torch.compiler.reset()
    pictures = torch.randn(2, 16, 20, 28).contiguous(memory_format=LAST)
    high, low, found = _compiled(compute, "inductor")(pictures)
    torch.testing.assert_close((high, low), halves(pictures), rtol=0, atol=0)
    assert relative_error(found, layers(pictures).double()) < 1e-6
