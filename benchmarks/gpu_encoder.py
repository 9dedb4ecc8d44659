"""Emu3's vision tokenizer on a GPU: speed, memory and codes of each precision, against float64.

Part of `python -m benchmarks.gpu`. Weights are random, in full size, with vectors spread over the codebook,
so that codes tell how exact the arithmetic is; how trained weights behave they don't tell.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from curation.pipeline.precision import float32_products
from curation.tokenize_shards.vision.emu3 import gpu_tokenizer
from curation.tokenize_shards.vision.spatial import ON_GPU, Calls
from curation.tokenize_shards.vision.tokenizer import Precision

Frames = NDArray[np.uint8]
Codes = NDArray[np.int64]
Encode = Callable[[list[Frames]], list[Codes]]

GOALS = {"fp32": 9, "tf32x3": 30, "tf32": 50, "bf16": 120}
"""Frames of 512 x 512 per second of a clip, on a card of H100's class."""
GOAL_PEAK_GB = 4.0
"""For calls of clips of 512 x 512, weights included."""


@dataclass(frozen=True)
class Scale:
    """What is run.

    Attributes:
        config: Of the model.
        sizes: Heights and widths; the first is compared with float64.
        images: Number of images.
        clip: Frames of a clip.
        calls: How the encoder is called.
        seconds: How long each path is timed, at least.
    """

    config: Any
    sizes: Sequence[tuple[int, int]]
    images: int
    clip: int
    calls: Calls
    seconds: float


def lines(device: str, *, tiny: bool) -> Iterator[str]:
    """Lines of Markdown, one for each row as it comes."""
    return table(run(device, tiny_scale() if tiny else full_scale()), with_goals=not tiny)


def full_scale() -> Scale:
    """Emu3's own size; 384 x 688 is what it makes of 16:9."""
    return Scale(Emu3VQVAEConfig(), ((512, 512), (384, 688)), images=4, clip=8, calls=ON_GPU, seconds=3.0)


def tiny_scale() -> Scale:
    """The same lines, in seconds on a CPU."""
    config = Emu3VQVAEConfig(
        base_channels=32, channel_multiplier=(1, 1, 1, 1), num_res_blocks=1, hidden_size=32
    )
    calls = replace(ON_GPU, backend=None)  # building kernels is most of the time, and tests do it
    return Scale(config, ((64, 64), (48, 88)), images=4, clip=8, calls=calls, seconds=0.0)


@dataclass(frozen=True)
class Measured:
    """One path on one kind of samples.

    Attributes:
        path: What computed.
        kind: "images" or "clip", and the size.
        frames_per_s: Median of the rounds; an image is one frame.
        tflops: 1e12 multiplications and additions per second that the encoder takes, by torch's count.
        peak_gb: Most memory of the card that was allocated, weights included; 0 on a CPU.
        equal: Share of the codes that float64 gives, where that was computed.
        first_s: Seconds of the first call, with what is built in it.
    """

    path: str
    kind: str
    frames_per_s: float
    tflops: float
    peak_gb: float
    equal: float | None
    first_s: float


class Exact:
    """Emu3's encoder in float64: transformers' modules, and torch's own convolutions in place of cuDNN's."""

    def __init__(self, model: Any, device: str) -> None:
        self._model = copy.deepcopy(model).double().to(device)
        self._device = device

    @torch.inference_mode()
    def hidden(self, frames: Frames) -> torch.Tensor:
        """[1, 4, T', H/8, W/8] before `quant_conv`, of [T, H, W, 3]."""
        encoder = self._model.encoder
        with torch.backends.cudnn.flags(enabled=False):
            spatial = torch.cat([self._spatial(frames[one : one + 1]) for one in range(len(frames))])
            several = spatial if len(frames) > 1 else spatial.expand(4, -1, -1, -1)
            hidden = several.permute(1, 0, 2, 3)[None]
            for convolution in encoder.time_conv:
                hidden = convolution(hidden)
                hidden = hidden * torch.sigmoid(hidden)
            for layer in encoder.time_res_stack:
                hidden = layer(hidden)
        return hidden

    def _spatial(self, frame: Frames) -> torch.Tensor:
        encoder = self._model.encoder
        pixels = torch.from_numpy(frame).to(self._device).permute(0, 3, 1, 2).contiguous().double()
        hidden = encoder.conv_in((pixels / 255 - 0.5) / 0.5)
        hidden = encoder.norm_out(encoder.middle_block(encoder.down_block(hidden)))
        latents: torch.Tensor = encoder.conv_out(hidden * torch.sigmoid(hidden))
        return latents

    @torch.inference_mode()
    def codes(self, hidden: torch.Tensor, quant_conv: Any, codebook: torch.Tensor) -> Codes:
        """[T', H/8, W/8] nearest codes, all in float64."""
        with torch.backends.cudnn.flags(enabled=False):
            vectors = copy.deepcopy(quant_conv).double().to(self._device)(hidden)[0].permute(1, 2, 3, 0)
        entries = codebook.double().to(self._device)
        found = [torch.cdist(part, entries).argmin(dim=1) for part in vectors.reshape(-1, 4).split(2048)]
        return torch.cat(found).reshape(vectors.shape[:-1]).cpu().numpy()


def pictures(count: int, height: int, width: int, seed: int) -> Frames:
    """Frames with areas and edges that move: noise at three scales, rolled from frame to frame."""
    random = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for scale, weight in ((64, 0.6), (16, 0.3), (2, 0.1)):
        rows, columns = -(-height // scale), -(-width // scale)
        noise = random.random((rows, columns, 3)).repeat(scale, axis=0).repeat(scale, axis=1)
        picture += weight * noise[:height, :width]
    frame = (255 * picture).astype(np.uint8)
    return np.stack([np.roll(frame, 4 * number, axis=1) for number in range(count)])


def spread_model(
    config: Any, device: str, samples: Sequence[Frames]
) -> tuple[Any, Exact, list[torch.Tensor]]:
    """A seeded random model whose vectors are spread as the codes are; what float64 makes of the samples."""
    torch.manual_seed(0)
    model = Emu3VQVAE(config).eval()
    model.decoder = model.post_quant_conv = None
    exact = Exact(model, device)
    hidden = [exact.hidden(frames) for frames in samples]
    convolution = model.quant_conv.conv
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        layer = copy.deepcopy(model.quant_conv).double().to(device)
        vectors = torch.cat([layer(one)[0].permute(1, 2, 3, 0).reshape(-1, 4) for one in hidden]).cpu()
        # Codes are drawn from a standard normal distribution.
        convolution.weight.div_(vectors.std(dim=0)[:, None, None, None, None])
        convolution.bias.copy_((convolution.bias - vectors.mean(dim=0)) / vectors.std(dim=0))
    return model, exact, hidden


def count_flops(model: Any, height: int, width: int) -> float:
    """Multiplications and additions of a frame's convolutions, products and attention, by torch's count."""
    hollow = copy.deepcopy(model.encoder).to("meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        hidden = hollow.conv_in(torch.empty(1, 3, height, width, device="meta"))
        hollow.conv_out(hollow.norm_out(hollow.middle_block(hollow.down_block(hidden))))
    return float(counter.get_total_flops())


def paths(model: Any, device: str, calls: Calls) -> Iterator[tuple[str, Encode]]:
    """Name and function of each way of encoding, built as it is asked for."""
    precisions: tuple[Precision, ...] = ("fp32", "tf32x3", "tf32", "bf16")
    for precision in precisions:
        torch.compiler.reset()
        yield precision, _ours(model, device, precision, calls)
    for tf32, name in ((False, "IEEE"), (True, "TF32 convolutions")):
        yield f"transformers, {name}", _transformers(model, device, tf32=tf32, together=True)
        yield f"transformers, {name}, one by one", _transformers(model, device, tf32=tf32, together=False)


def _ours(model: Any, device: str, precision: Precision, calls: Calls) -> Encode:
    tokenizer = gpu_tokenizer(copy.deepcopy(model), device, precision, calls)
    return lambda batch: [grid.astype(np.int64) for grid in tokenizer.encode(batch)]


def _transformers(model: Any, device: str, *, tf32: bool, together: bool) -> Encode:
    """`encode` for images; for a clip, whose grid that would crop, the parts that it calls."""
    moved = copy.deepcopy(model).to(device)

    @torch.inference_mode()
    def encode_together(batch: list[Frames]) -> list[Codes]:
        pixels = torch.from_numpy(np.stack(batch)).to(device).permute(0, 1, 4, 2, 3).contiguous()
        values = (pixels.float() / 255 - 0.5) / 0.5
        # Matrix products in IEEE float32 either way, as torch has it by default.
        with float32_products(tf32=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            if values.shape[1] == 1:
                sizes = torch.tensor([values.shape[-2:]] * len(batch))
                return [grid.cpu().numpy()[None] for grid in moved.encode(values[:, 0], sizes).image_tokens]
            hidden = moved.quant_conv(moved.encoder(values).permute(0, 2, 1, 3, 4))
            return list(moved.quantize(hidden.permute(0, 2, 1, 3, 4)).cpu().numpy())

    if together:
        return encode_together
    return lambda batch: [encode_together([one])[0] for one in batch]


def measure(
    encode: Encode, batch: list[Frames], device: str, seconds: float
) -> tuple[list[Codes], float, float, float]:
    """Codes, seconds of the first call, median seconds of the following ones, and peak GB."""
    on_gpu = device == "cuda"
    started = time.perf_counter()
    codes = encode(batch)
    first_s = time.perf_counter() - started
    if on_gpu:
        gc.collect()  # what was measured before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rounds: list[float] = []
    while sum(rounds) < seconds or not rounds:
        started = time.perf_counter()
        encode(batch)  # its codes come back to the host, so it is over when it returns
        rounds.append(time.perf_counter() - started)
    peak_gb = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    return codes, first_s, float(np.median(rounds)), peak_gb


def run(device: str, scale: Scale) -> Iterator[Measured | str]:
    """Rows as they are measured; a string says that a path found no memory."""
    batches = [(height, width, kind) for height, width in scale.sizes for kind in ("images", "clip")]
    first = [_batch(scale, *scale.sizes[0], kind) for kind in ("images", "clip")]
    samples = [frames for batch in first for frames in batch]
    model, exact, hidden = spread_model(scale.config, device, samples)
    codebook = model.quantize.embedding.weight.detach()
    truth = [exact.codes(one, model.quant_conv, codebook) for one in hidden]
    wanted = {"images": truth[: scale.images], "clip": truth[scale.images :]}
    del exact, hidden
    for name, encode in paths(model, device, scale.calls):
        for height, width, kind in batches:
            known = wanted[kind] if (height, width) == tuple(scale.sizes[0]) else None
            batch = _batch(scale, height, width, kind)
            label = f"{kind} {height}x{width}"
            try:
                codes, first_s, second, peak_gb = measure(encode, batch, device, scale.seconds)
            except torch.cuda.OutOfMemoryError:
                yield f"{name}, {label}: no memory on the card"
                continue
            frames = sum(len(one) for one in batch)
            equal = None if known is None else float(np.mean(np.stack(codes) == np.stack(known)))
            rate = frames / second
            tflops = rate * count_flops(model, height, width) / 1e12
            yield Measured(name, label, rate, tflops, peak_gb, equal, first_s)


def _batch(scale: Scale, height: int, width: int, kind: str) -> list[Frames]:
    if kind == "clip":
        return [pictures(scale.clip, height, width, 100)]
    return [pictures(1, height, width, seed) for seed in range(scale.images)]


def table(rows: Iterable[Measured | str], *, with_goals: bool) -> Iterator[str]:
    """Lines of Markdown, one for each row as it comes."""
    yield "| path | samples | frames/s | TFLOP/s | peak GB | codes equal to float64 | first call s | goal |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if isinstance(row, str):
            yield f"| {row} | | | | | | | |"
            continue
        equal = "" if row.equal is None else f"{row.equal:.2%}"
        yield (
            f"| {row.path} | {row.kind} | {row.frames_per_s:.1f} | {row.tflops:.1f} | {row.peak_gb:.2f} "
            f"| {equal} | {row.first_s:.1f} | {goal(row) if with_goals else ''} |"
        )


def goal(row: Measured) -> str:
    """The goal of a row, and whether it is reached."""
    if row.path not in GOALS or row.kind != "clip 512x512":
        return ""
    reached = row.frames_per_s >= GOALS[row.path] and row.peak_gb <= GOAL_PEAK_GB
    return f">= {GOALS[row.path]}, <= {GOAL_PEAK_GB:g} GB: {'reached' if reached else 'MISSED'}"
