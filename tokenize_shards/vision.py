"""Emu3's vision tokenizer: frames to a grid of codebook indices.

Works on the encoder's parts instead of `Emu3VQVAE.encode`: frames are encoded one by one, an image
only once instead of four times over, and a clip's grid is not cropped along the wrong axes, as
transformers does for five-dimensional input.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation.errors import TokenizeError
from tokenize_shards.checkpoint import load_model

if TYPE_CHECKING:
    import torch

SPATIAL_FACTOR = 8
TEMPORAL_FACTOR = 4


class VisionTokenizer:
    """An `Emu3VQVAE` of transformers, in evaluation."""

    def __init__(self, model: Any, device: str) -> None:
        self.model = model.eval().to(device)
        self._device = device

    def encode(self, frames: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """The token grid [T', H/8, W/8] of [T, H, W, 3] uint8 RGB frames.

        One frame is an image: T' = 1. Otherwise T must be a multiple of 4: T' = T/4.

        Raises:
            TokenizeError: the sides are not multiples of 8, or the number of frames not of 4.
        """
        import torch

        number, height, width = frames.shape[:3]
        if height % SPATIAL_FACTOR or width % SPATIAL_FACTOR:
            raise TokenizeError(f"{width}x{height} are not multiples of {SPATIAL_FACTOR}")
        if number > 1 and number % TEMPORAL_FACTOR:
            raise TokenizeError(f"{number} frames are not a multiple of {TEMPORAL_FACTOR}")
        on_gpu = self._device == "cuda"
        with torch.inference_mode(), torch.autocast(self._device, torch.bfloat16, enabled=on_gpu):
            latents = torch.cat([self._spatial(frame) for frame in frames])
            if number == 1:
                latents = latents.expand(TEMPORAL_FACTOR, -1, -1, -1)
            encoded = self._temporal(latents)
        codes = self._nearest(encoded.float())
        return codes.to(torch.int32).cpu().numpy().astype(np.uint16)

    def _spatial(self, frame: NDArray[np.uint8]) -> torch.Tensor:
        """[1, C, H/8, W/8] latents of one frame, before time is looked at."""
        import torch

        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None]
        if self._device == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        encoder = self.model.encoder
        hidden = encoder.conv_in((pixels.float() / 255 - 0.5) / 0.5)
        hidden = encoder.norm_out(encoder.middle_block(encoder.down_block(hidden)))
        latents: torch.Tensor = encoder.conv_out(hidden * torch.sigmoid(hidden))
        return latents

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
        """Indices of the nearest codebook entries, in float32: bfloat16 finds others for one in five."""
        import torch

        codebook = self.model.quantize.embedding.weight.float()
        flat = vectors.reshape(-1, vectors.shape[-1])
        half_norm = (codebook**2).sum(dim=1) / 2
        with torch.inference_mode():
            found = [(half_norm - part @ codebook.T).argmin(dim=1) for part in torch.split(flat, 4096)]
        return torch.cat(found).reshape(vectors.shape[:-1])


def load_tokenizer(folder: Path, device: str) -> VisionTokenizer:
    """The tokenizer from a folder in transformers' or in BAAI's format.

    Raises:
        ConfigError: its codebook is not Emu3's, or weights are missing.
    """
    return VisionTokenizer(load_model(folder), device)


def stand_in_tokenizer(device: str) -> VisionTokenizer:
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
        model = Emu3VQVAE(config)
    return VisionTokenizer(model, device)
