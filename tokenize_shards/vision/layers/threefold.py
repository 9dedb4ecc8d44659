"""Nearly float32's exactness from a GPU's TF32 units: three products in place of one.

A TF32 number has the 10 bits of mantissa that those units read. With x = high + low and w = high + low, both
parts rounded to it, high * high + high * low + low * high lacks only low * low, at most 2e-7 of the product.
One layer of three times the inputs adds them up within the units, in float32.
"""

from __future__ import annotations

import torch
from torch.nn import functional

_BITS = 13
"""Bits of float32's mantissa of 23 that TF32 does not have."""


def halves(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest TF32 numbers, halves away from zero, and what they lack; their sum is exact."""
    bits = values.view(torch.int32)
    high = ((bits + (1 << (_BITS - 1))) & -(1 << _BITS)).view(torch.float32)
    return high, values - high


def _tripled(inputs: torch.Tensor, weight: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and weights whose layer is the three products; `dim` is that of the inputs' channels."""
    high, low = halves(inputs)
    weight_high, weight_low = halves(weight)
    return torch.cat([low, high, high], dim), torch.cat([weight_high, weight_low, weight_high], 1)


class ThreefoldConv(torch.nn.Module):
    """What a `torch.nn.Conv2d` computes, in three products."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._stride, self._padding = convolution.stride, convolution.padding

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, O, H', W'] of [N, C, H, W] float32."""
        pictures, weight = _tripled(pictures, self.weight, 1)
        return functional.conv2d(pictures, weight, self.bias, self._stride, self._padding)


class ThreefoldLinear(torch.nn.Module):
    """What a `torch.nn.Linear` computes, in three products."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., O] of [..., C] float32."""
        return functional.linear(*_tripled(inputs, self.weight, -1), self.bias)
