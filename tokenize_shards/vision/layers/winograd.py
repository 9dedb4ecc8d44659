"""3 x 3 convolutions on the CPU by Winograd's F(4x4, 3x3): 36 multiplications for what takes 144.

Lavin and Gray, arXiv 1509.09308. oneDNN has it for AVX-512 only, and Emu3's encoder spends 87 % of its
time in these convolutions. cuDNN chooses such algorithms by itself, so this is for the CPU alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from curation.tokenize_shards.vision.layers.substitute import substitute

MIN_CHANNELS = 128
"""With fewer, moving numbers about costs what the multiplications save."""
MAX_WEIGHTS = 512 * 512
"""Pairs of channels. A kernel takes four times its memory here; the widest work on the smallest pictures."""
TILES_PER_BLOCK = 256
"""Tiles of 4 x 4 pixels worked on together: few enough to bound memory and stay near the cache."""
_TILE = 4

_KERNEL = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
"""The matrix G of the paper's section 4.3; B and A are written out as sums below."""


class WinogradConv(torch.nn.Module):
    """What `torch.nn.Conv2d(C, O, 3, padding=1)` computes, up to rounding."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        kernel = torch.tensor(_KERNEL, dtype=torch.float64)
        weight = convolution.weight.detach()
        # [36, O, C]; rounded once, from float64.
        spread = torch.einsum("ai,ocij,bj->aboc", kernel, weight.double(), kernel)
        self.register_buffer("weight", spread.flatten(0, 1).to(weight.dtype).contiguous())
        bias = convolution.bias
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, O, H, W], contiguous, of [N, C, H, W]; one picture at a time: none depends on its neighbors."""
        number, _, height, width = pictures.shape
        rows, columns = -(-height // _TILE), -(-width // _TILE)
        result = pictures.new_empty(number, self.weight.shape[1], rows * _TILE, columns * _TILE)
        for picture, target in zip(pictures, result, strict=True):
            self._fill(_padded(picture, rows, columns), target, rows, columns)
        return result[..., :height, :width].contiguous()

    def _fill(self, padded: torch.Tensor, result: torch.Tensor, rows: int, columns: int) -> None:
        """Write [O, 4 rows, 4 columns] of [C, 4 rows + 2, 4 columns + 2], some rows of tiles at a time."""
        outputs = len(result)
        block = max(1, TILES_PER_BLOCK // columns)
        for top in range(0, rows, block):
            number = min(block, rows - top)
            tiles = _spread_tiles(padded[:, top * _TILE : (top + number) * _TILE + 2], number, columns)
            products = torch.bmm(self.weight, tiles.view(36, len(padded), -1))
            # [4 across, 4 down, O, rows, columns] back to pixels.
            sums = _gather(products.view(6, 6, outputs, number, columns)).permute(2, 3, 1, 4, 0)
            target = result[:, top * _TILE : (top + number) * _TILE]
            target = target.view(outputs, number, _TILE, columns, _TILE)
            if self.bias is None:
                target.copy_(sums)
            else:
                torch.add(sums, self.bias[:, None, None, None, None], out=target)


def _padded(picture: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[C, 4 rows + 2, 4 columns + 2]: zeros around; `functional.pad` would write the middle twice."""
    channels, height, width = picture.shape
    padded = picture.new_empty(channels, rows * _TILE + 2, columns * _TILE + 2)
    padded[:, 0] = 0
    padded[:, height + 1 :] = 0
    padded[:, :, 0] = 0
    padded[:, :, width + 1 :] = 0
    padded[:, 1 : height + 1, 1 : width + 1] = picture
    return padded


def _spread_tiles(strip: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[6, 6, C, rows, columns]: overlapping 6 x 6 tiles of [C, 4 rows + 2, 4 columns + 2], transformed."""
    channels, _, width = strip.shape
    down = strip.new_empty(6, channels, rows, width)
    _transform([strip[:, at : at + _TILE * rows - 3 : _TILE] for at in range(6)], down)
    tiles = strip.new_empty(6, 6, channels, rows, columns)
    _transform([down[..., at : at + _TILE * columns - 3 : _TILE] for at in range(6)], tiles.transpose(0, 1))
    return tiles


def _transform(lines: Sequence[torch.Tensor], out: torch.Tensor) -> None:
    """B^T of the paper, along one direction of the tiles: six lines in, six out."""
    d0, d1, d2, d3, d4, d5 = lines
    torch.sub(d4, d2, alpha=5, out=out[0]).add_(d0, alpha=4)
    even, odd = torch.sub(d4, d2, alpha=4), torch.sub(d3, d1, alpha=4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d4, d2, out=even)
    torch.sub(d3, d1, out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.sub(d5, d3, alpha=5, out=out[5]).add_(d1, alpha=4)


def _gather(products: torch.Tensor) -> torch.Tensor:
    """[4, 4, O, rows, columns], across before down, of [6, 6, O, rows, columns] products."""
    down = products.new_empty(_TILE, *products.shape[1:])
    _inverse(products, down)
    across = products.new_empty(_TILE, *down.transpose(0, 1).shape[1:])
    _inverse(down.transpose(0, 1), across)
    return across


def _inverse(lines: torch.Tensor, out: torch.Tensor) -> None:
    """A^T of the paper, along one direction: six lines in, four out."""
    near, near_odd = lines[1] + lines[2], lines[1] - lines[2]
    far, far_odd = lines[3] + lines[4], lines[3] - lines[4]
    torch.add(near, far, out=out[0]).add_(lines[0])
    torch.add(near_odd, far_odd, alpha=2, out=out[1])
    torch.add(near, far, alpha=4, out=out[2])
    torch.add(near_odd, far_odd, alpha=8, out=out[3]).add_(lines[5])


def speed_up(model: torch.nn.Module) -> None:
    """Replace a model's 3 x 3 convolutions of many channels, in place; their own weights are let go."""
    substitute(
        model,
        lambda layer: WinogradConv(layer) if isinstance(layer, torch.nn.Conv2d) and _fits(layer) else None,
    )


def _fits(convolution: torch.nn.Conv2d) -> bool:
    return (
        convolution.kernel_size == (3, 3)
        and convolution.stride == convolution.dilation == (1, 1)
        and convolution.padding == (1, 1)
        and convolution.groups == 1
        and min(convolution.in_channels, convolution.out_channels) >= MIN_CHANNELS
        and convolution.in_channels * convolution.out_channels <= MAX_WEIGHTS
    )
