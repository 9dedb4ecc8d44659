"""The spatial part of Emu3's encoder, which is nearly all of its work: frames in, latents out.

Rows repeat because what computes a frame depends on its size and on whether it is of a clip, never on what
came before or stands beside it. On a GPU that takes some care: kernels are built once, for pictures that are
always the same, and serve all sizes; images share a call only where a trial has shown that it changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation.tokenize_shards.vision.arithmetic import computing
from curation.tokenize_shards.vision.tokenizer import TEMPORAL_FACTOR, Precision

if TYPE_CHECKING:
    import torch

_SIDE_PX = 528
"""Side of a square that no picture of about 512 x 512 exceeds, as Emu3 rounds sides up to multiples of 8."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """How the encoder is called.

    Attributes:
        max_pixels: Precision -> pixels of a call's frames together; one frame alone may have more.
        backend: Of torch.compile; None runs the model as it is written.
        built_for_px: Side of the pictures for which it is compiled.
        channels_last: Whether a pixel's channels lie together in memory.
        search_rows: Vectors whose distances to all codes are held at a time, 128 KB each.
    """

    max_pixels: dict[Precision, int] = field(default_factory=dict)
    backend: str | None = None
    built_for_px: int = 512
    channels_last: bool = False
    search_rows: int

    def frames(self, precision: Precision, height: int, width: int) -> int:
        """Frames of a call: 4, 2 or 1, which divide a clip's frames, so that none is left over."""
        most = self.max_pixels.get(precision, 0) // (height * width)
        return next((number for number in (TEMPORAL_FACTOR, 2) if number <= most), 1)


ON_CPU = Calls(search_rows=64)
"""A frame at a time, and distances of 8 MB, which a processor's cache can hold."""
ON_GPU = Calls(
    max_pixels={
        "bf16": 4 * _SIDE_PX**2,
        # A frame takes twice the memory, in tf32x3 its convolutions' inputs six times.
        **dict.fromkeys(("tf32", "tf32x3", "fp32"), 2 * _SIDE_PX**2),
    },
    backend="inductor",
    channels_last=True,
    search_rows=4096,
)
"""Up to four frames of 512 x 512 at a time, and the distances of one such image, 0.5 GB."""


class SpatialEncoder:
    """Calls the spatial part of an `Emu3VQVAEEncoder` of transformers."""

    def __init__(self, encoder: Any, device: str, precision: Precision, calls: Calls) -> None:
        self._encoder = encoder
        self._device = device
        self._precision = precision
        self._calls = calls
        self._built: set[int] = set()
        self._repeats: dict[torch.Size, bool] = {}
        self._run = self._compute if calls.backend is None else _compiled(self._compute, calls.backend)

    def build(self) -> None:
        """Build the kernels of calls with as many frames as they ever have, where any are built."""
        import torch

        if self._calls.backend is None:
            return
        side_px = self._calls.built_for_px
        with torch.inference_mode(), computing(self._precision, self._device):
            self._build(self._calls.frames(self._precision, side_px, side_px))

    def latents(self, batch: Sequence[NDArray[np.uint8]]) -> Iterator[torch.Tensor]:
        """[T, C, H/8, W/8] float32 of each item, [T, H, W, 3] uint8, all of one shape."""
        if not batch:
            return
        if len(batch[0]) == 1:
            yield from self._of_images([self._on_device(image) for image in batch])
            return
        for frames in batch:
            yield self._of_clip(self._on_device(frames))

    def _of_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        parts = torch.split(pixels, self._frames_per_call(pixels))
        return torch.cat([self._call(part) for part in parts])

    def _of_images(self, images: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Together as far as they fill calls, where that gives the latents that each has alone."""
        import torch

        number = self._frames_per_call(images[0])
        together = 0
        if 1 < number <= len(images) and self._is_same_together(number, images[0]):
            together = len(images) // number * number
        for first in range(0, together, number):
            yield from torch.split(self._call(torch.cat(list(images[first : first + number]))), 1)
        for image in images[together:]:
            yield self._call(image)

    def _is_same_together(self, number: int, image: torch.Tensor) -> bool:
        """Whether images of this size have the same latents in one call as alone, to the bit.

        Libraries choose kernels by the number of images, too. Tried once for a size, with noise.
        """
        import torch

        if image.shape not in self._repeats:
            generator = torch.Generator().manual_seed(0)
            height, width = image.shape[2:]
            noise = torch.randint(0, 256, (number, height, width, 3), generator=generator, dtype=torch.uint8)
            images = self._on_device(noise.numpy())
            alone = torch.cat([self._call(one) for one in torch.split(images, 1)])
            self._repeats[image.shape] = torch.equal(self._call(images), alone)
        return self._repeats[image.shape]

    def _frames_per_call(self, pixels: torch.Tensor) -> int:
        return self._calls.frames(self._precision, *pixels.shape[2:])

    def _on_device(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """[T, 3, H, W] uint8."""
        import torch

        pixels = torch.from_numpy(np.array(frames))
        if self._device == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        # Frames come channels last. With torch's own group norm a CPU would be up to a thousand times less
        # exact, which changes codes.
        pixels = pixels.permute(0, 3, 1, 2)
        return pixels if self._calls.channels_last else pixels.contiguous()

    def _call(self, pixels: torch.Tensor) -> torch.Tensor:
        """[N, C, H/8, W/8] float32 latents of [N, 3, H, W] uint8 frames, each by itself."""
        import torch

        with computing(self._precision, self._device):
            if self._calls.backend is None:
                return self._run(pixels).float()
            self._build(len(pixels))
            # A size that the kernels don't fit runs as it is written: never another build, which would depend
            # on what came first.
            with torch.compiler.set_stance("eager_on_recompile"):
                return self._run(pixels).float()

    def _build(self, number: int) -> None:
        """Build the kernels for so many frames of any size, once."""
        import torch

        if number in self._built:
            return
        side_px = self._calls.built_for_px
        pixels = self._on_device(np.zeros((number, side_px, side_px, 3), np.uint8))
        for side in (2, 3):
            # "Maybe": a version of torch that can't build for any size still runs, more slowly.
            torch._dynamo.maybe_mark_dynamic(pixels, side)
        self._run(pixels)
        self._built.add(number)

    def _compute(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        encoder = self._encoder
        hidden = encoder.conv_in((pixels.float() / 255 - 0.5) / 0.5)
        hidden = encoder.norm_out(encoder.middle_block(encoder.down_block(hidden)))
        latents: torch.Tensor = encoder.conv_out(hidden * torch.sigmoid(hidden))
        return latents


def _compiled(compute: Callable[[torch.Tensor], torch.Tensor], backend: str) -> Any:
    import torch

    options: dict[str, Any] | None = None
    if backend == "inductor" and "deterministic" in torch._inductor.list_options():
        # No choice by timing where it changes numbers. Older versions of torch don't know the option.
        options = {"deterministic": True}
    return torch.compile(compute, backend=backend, fullgraph=True, options=options)


def fit_to_gpu(model: Any, precision: Precision) -> None:
    """Give a model the layers that a precision has on a GPU, in place."""
    import torch

    from curation.tokenize_shards.vision.layers.norm import MomentNorm
    from curation.tokenize_shards.vision.layers.substitute import substitute

    substitute(
        model.encoder, lambda layer: MomentNorm(layer) if isinstance(layer, torch.nn.GroupNorm) else None
    )
    for layer in model.encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    if precision == "fp32":
        substitute(model, _products)
    elif precision == "tf32x3":
        substitute(model.encoder, _threefold)


def _products(layer: torch.nn.Module) -> torch.nn.Module | None:
    import torch

    from curation.tokenize_shards.vision.layers.products import ProductConv

    return ProductConv(layer) if isinstance(layer, torch.nn.Conv2d) else None


def _threefold(layer: torch.nn.Module) -> torch.nn.Module | None:
    import torch

    from curation.tokenize_shards.vision.layers.threefold import ThreefoldConv, ThreefoldLinear

    if isinstance(layer, torch.nn.Conv2d):
        return ThreefoldConv(layer)
    return ThreefoldLinear(layer) if isinstance(layer, torch.nn.Linear) else None
