"""Convolutions as matrix products, for float32 on a GPU.

cuDNN chooses an algorithm by what memory happens to be free: in float32 without TF32 it took up to 140 GB for
a picture of 512 x 512, and some of its choices gave other codes. cuBLAS repeats a product of matrices to the
bit on one kind of GPU, and what memory that takes is written here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class ProductConv(torch.nn.Module):
    """What a `torch.nn.Conv2d` of one group, without dilation and with square kernels, computes."""

    taps: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("taps", convolution.weight.detach().permute(2, 3, 1, 0).contiguous())
        bias = convolution.bias
        self.register_buffer("bias", None if bias is None else bias.detach())
        self._stride, self._padding = convolution.stride[0], int(convolution.padding[0])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, O, H', W'], channels last, of [N, C, H, W]; none depends on its neighbors."""
        convolved: torch.Tensor = _convolved(pictures, self.taps, self.bias, self._stride, self._padding)
        return convolved


def _empty(pictures: torch.Tensor, taps: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    height, width = ((side + 2 * padding - taps.shape[0]) // stride + 1 for side in pictures.shape[2:])
    shape = (pictures.shape[0], taps.shape[3], height, width)
    return torch.empty(shape, dtype=pictures.dtype, device=pictures.device, memory_format=torch.channels_last)


# As one operation, whose insides torch.compile leaves alone: it would not add up in place.
@torch.library.custom_op("curation::convolved_by_products", mutates_args=())
def _convolved(
    pictures: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor | None, stride: int, padding: int
) -> torch.Tensor:
    """One picture at a time; `taps` [K, K, C, O]."""
    result = _empty(pictures, taps, stride, padding)
    for picture, target in zip(pictures.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1), strict=True):
        padded = functional.pad(picture, (0, 0, padding, padding, padding, padding)).contiguous()
        _fill(target, padded, taps, bias, stride)
    return result


@_convolved.register_fake
def _(pictures: Any, taps: Any, bias: Any, stride: int, padding: int) -> Any:
    return _empty(pictures, taps, stride, padding)


def _fill(
    target: torch.Tensor, padded: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor | None, stride: int
) -> None:
    """Write [H', W', O] of [H, W, C]: a product for each of the K x K taps, added to the sums so far."""
    height, width, outputs = target.shape
    # Of whole lines of the padded picture, so that what a tap sees is one piece of memory. What lies
    # between two lines is computed for nothing.
    line = padded.shape[1] if stride == 1 else width
    sums = padded.new_zeros(height * line, outputs)
    if bias is not None:
        sums += bias
    size = taps.shape[0]
    for down in range(size):
        for across in range(size):
            seen = _seen(padded, down, across, stride, target.shape)
            sums[: len(seen)].addmm_(seen, taps[down, across])
    target.copy_(sums.view(height, line, outputs)[:, :width])


def _seen(padded: torch.Tensor, down: int, across: int, stride: int, shape: torch.Size) -> torch.Tensor:
    """[pixels, C] that a tap sees, in the order of the sums."""
    line, channels = padded.shape[1:]
    height, width = shape[:2]
    if stride == 1:
        first = down * line + across
        return padded.view(-1, channels)[first : first + (height - 1) * line + width]
    rows = slice(down, down + stride * (height - 1) + 1, stride)
    columns = slice(across, across + stride * (width - 1) + 1, stride)
    return padded[rows, columns].reshape(-1, channels)
