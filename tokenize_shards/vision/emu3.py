"""Emu3's vision tokenizer: transformers' `Emu3VQVAE`, driven through its parts.

`Emu3VQVAE.encode` encodes an image four times over, holds all distances to the codebook at once, and
crops a clip's grid along the wrong axes. Here frames pass the spatial encoder a few at a time, an image
once, and distances are looked at in small blocks; the codes are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation.tokenize_shards.vision.arithmetic import check_precision, computing
from curation.tokenize_shards.vision.checkpoint import load_model
from curation.tokenize_shards.vision.spatial import ON_CPU, ON_GPU, Calls, SpatialEncoder, fit_to_gpu
from curation.tokenize_shards.vision.tokenizer import TEMPORAL_FACTOR, Precision, check_batch

if TYPE_CHECKING:
    import torch


class Emu3Tokenizer:
    """An `Emu3VQVAE` of transformers, in evaluation."""

    def __init__(self, model: Any, device: str, precision: Precision = "fp32", calls: Calls = ON_CPU) -> None:
        self.model = model.eval().to(device)
        self._device = device
        self._search_rows = calls.search_rows
        self._spatial = SpatialEncoder(self.model.encoder, device, precision, calls)

    def build(self) -> None:
        """Build the kernels of full calls, so that a worker's start has taken the time and the memory."""
        self._spatial.build()

    def encode(self, batch: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint16]]:
        import torch

        check_batch(batch)
        with torch.inference_mode():
            # Nothing waits for the device before the last item is under way.
            codes = [self._codes(latents) for latents in self._spatial.latents(batch)]
            return [grid.to(torch.int32).cpu().numpy().astype(np.uint16) for grid in codes]

    def decode(self, grid: NDArray[np.uint16], *, is_image: bool) -> NDArray[np.uint8]:
        import torch

        codes = torch.from_numpy(grid.astype(np.int64)).to(self._device)
        with torch.inference_mode(), computing("fp32", self._device):
            # transformers takes three dimensions for an image: a batch of grids [H', W'].
            values = self.model.decode(codes if is_image else codes[None])
            values = values if is_image else values[0]
            pixels = ((values.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            frames: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return frames

    def _codes(self, latents: torch.Tensor) -> torch.Tensor:
        """[T/4, H/8, W/8], of [T, C, H/8, W/8] latents; an image has its own four times over."""
        with computing("fp32", self._device):
            several = latents if len(latents) > 1 else latents.expand(TEMPORAL_FACTOR, -1, -1, -1)
            return self._nearest(self._temporal(several))

    def _temporal(self, latents: torch.Tensor) -> torch.Tensor:
        """[T/4, H/8, W/8, 4] vectors to be quantized, of [T, C, H/8, W/8] latents."""
        import torch

        encoder = self.model.encoder
        hidden = latents.permute(1, 0, 2, 3)[None]
        for convolution in encoder.time_conv:
            hidden = convolution(hidden)
            hidden = hidden * torch.sigmoid(hidden)
        for layer in encoder.time_res_stack:
            hidden = layer(hidden)
        vectors: torch.Tensor = self.model.quant_conv(hidden)[0].permute(1, 2, 3, 0)
        return vectors

    def _nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """[T/4, H/8, W/8] indices of the nearest codebook entries, by transformers' own formula."""
        import torch

        codebook = self.model.quantize.embedding.weight
        doubled, norms = 2 * codebook.T, (codebook**2).sum(dim=1)
        found = []
        for part in torch.split(vectors.reshape(-1, vectors.shape[-1]), self._search_rows):
            distances = (part**2).sum(dim=1, keepdim=True) + norms
            distances -= part @ doubled
            found.append(distances.argmin(dim=1))
        return torch.cat(found).reshape(vectors.shape[:-1])


def load_emu3(folder: Path | None, device: str, precision: Precision, *, decodes: bool) -> Emu3Tokenizer:
    """The tokenizer from a folder in transformers' or in BAAI's format; without one, the stand-in.

    Raises:
        ConfigError: its codebook is not Emu3's, weights are missing, or the device lacks the precision.
        MissingDependencyError: there is no C compiler, which a GPU's kernels are built with.
    """
    check_precision(precision, device)
    model = stand_in_model() if folder is None else load_model(folder, decodes=decodes)
    if device == "cuda":
        tokenizer = gpu_tokenizer(model, device, precision, ON_GPU)
        if not decodes:
            tokenizer.build()
        return tokenizer
    if precision == "fp32":
        from curation.tokenize_shards.vision.layers.winograd import speed_up

        speed_up(model)
        _work_in_place(model.encoder)
    return Emu3Tokenizer(model, device, precision)


def gpu_tokenizer(model: Any, device: str, precision: Precision, calls: Calls) -> Emu3Tokenizer:
    """The tokenizer with what it does on a GPU; the model's layers are replaced in place.

    The same lines run on a CPU, which computes in float32 what TF32 would be.
    """
    fit_to_gpu(model, precision)
    return Emu3Tokenizer(model, device, precision, calls)


def _work_in_place(encoder: torch.nn.Module) -> None:
    """Spare the residual blocks most of their passes over memory, once convolutions no longer hide them."""
    for module in encoder.modules():
        if type(module).__name__ == "Emu3VQVAEResnetBlock":
            module.forward = MethodType(_residual, module)


def _residual(block: Any, hidden: torch.Tensor, _: None = None) -> torch.Tensor:
    """`Emu3VQVAEResnetBlock.forward`, up to rounding."""
    from torch.nn.functional import silu

    inside = block.conv1(silu(block.norm1(hidden), inplace=True))
    inside = block.conv2(silu(block.norm2(inside), inplace=True))
    same = block.in_channels == block.out_channels
    sums: torch.Tensor = inside.add_(hidden if same else block.nin_shortcut(hidden))
    return sums


def stand_in_model() -> Any:
    """The same architecture and codebook size, tiny, seeded and untrained: its codes mean nothing."""
    import torch
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    config = Emu3VQVAEConfig(
        base_channels=32,
        channel_multiplier=(1, 1, 1, 1),
        num_res_blocks=1,
        attn_resolutions=(),
        hidden_size=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Emu3VQVAE(config)
