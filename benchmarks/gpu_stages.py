"""The filters' models on a GPU: CLIP, RAFT and TransNetV2 by batch size and precision, and what feeds them.

Part of `python -m benchmarks.gpu`, which prints `lines`. Weights are random, in full size, but for
TransNetV2's: agreement tells how exact the arithmetic is, not how trained weights behave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from curation.pipeline.precision import Precision
from curation.stages.clip.squares import square_px, squares
from curation.stages.clip.tower import ImageTower, load_clip
from curation.stages.flow import DisFlow, RaftFlow
from curation.stages.scenes.settings import TRANSNET_PRECISION
from curation.stages.scenes.transnet import HEIGHT_PX, STEP, WIDTH_PX, WINDOW, TransNet

PRECISIONS: Sequence[Precision] = get_args(Precision)
HEAD_SLOPE = 18.0
"""Length of the gradient of LAION's sac+logos+ava1-l14-linearMSE, by which an embedding's error becomes
one of the score: the head has no activations, so that it is one affine map."""


@dataclass(frozen=True)
class Scale:
    """What is run.

    Attributes:
        clips: CLIP's architectures, and the batch sizes of each.
        num_compared: Pictures whose scores are compared between precisions.
        pictures: Heights and widths of the pictures that are prepared.
        raft: Networks.
        raft_size: Height and width of their frames.
        raft_batches: Pairs of a batch.
        windows: Windows of a call of TransNetV2.
        seconds: How long each is timed, at least.
    """

    clips: Sequence[tuple[str, Sequence[int]]]
    num_compared: int
    pictures: Sequence[tuple[int, int]]
    raft: Sequence[str]
    raft_size: tuple[int, int]
    raft_batches: Sequence[int]
    windows: Sequence[int]
    seconds: float


FULL = Scale(
    clips=(("ViT-L-14-quickgelu", (1, 16, 64, 512)), ("ViT-H-14", (64,))),
    num_compared=64,
    pictures=((256, 456), (1024, 1536)),
    raft=("raft_large", "raft_small"),
    raft_size=(256, 456),
    raft_batches=(8, 32),
    windows=(1, 8, 16),
    seconds=1.0,
)
TINY = Scale(
    clips=(("ViT-S-32-alt", (1, 2)),),
    num_compared=2,
    pictures=((256, 456),),
    raft=("raft_small",),
    raft_size=(128, 136),
    raft_batches=(1,),
    windows=(1,),
    seconds=0.0,
)
"""The same lines, in seconds on a CPU."""


@dataclass(frozen=True)
class Speed:
    """What one row of the table says.

    Attributes:
        what: The model and how it is called.
        precision: What it computes in; empty where that says nothing.
        per_s: Of `unit` a second.
        peak_gb: The most that it takes of a GPU, weights included.
        agreement: How far from fp32.
    """

    what: str
    precision: str
    per_s: float
    unit: str
    peak_gb: float | None = None
    agreement: str = ""


def lines(device: str, *, tiny: bool) -> Iterator[str]:
    """Lines of Markdown, one for each row as it comes."""
    return table(rows(device, TINY if tiny else FULL))


def table(found: Iterable[Speed]) -> Iterator[str]:
    """Its lines."""
    yield "| what | precision | rate | peak GB | off fp32 |"
    yield "|---|---|---|---|---|"
    for row in found:
        peak = "" if row.peak_gb is None else f"{row.peak_gb:.2f}"
        yield f"| {row.what} | {row.precision} | {row.per_s:,.1f} {row.unit}/s | {peak} | {row.agreement} |"


def rows(device: str, scale: Scale) -> Iterator[Speed]:
    """Everything, in order."""
    for size in scale.pictures:
        yield _preparing(size, scale)
    for architecture, batch_sizes in scale.clips:
        yield from _clip(architecture, batch_sizes, device, scale)
    yield _dis(scale)
    for network in scale.raft:
        yield from _raft(network, device, scale)
    yield from _transnet(device, scale)


def _preparing(size: tuple[int, int], scale: Scale) -> Speed:
    """What a core makes ready for CLIP: so many cores feed a card as CLIP is faster than this."""
    frames = _noise(4, *size)
    rate = _rate(lambda: squares(frames, square_px(scale.clips[0][0])), len(frames), "cpu", scale)
    return Speed(f"squares of {size[0]}x{size[1]}, a core", "", rate, "images")


def _clip(architecture: str, batch_sizes: Sequence[int], device: str, scale: Scale) -> Iterator[Speed]:
    torch.manual_seed(0)
    clip = load_clip(architecture, None)
    side = square_px(architecture)
    compared = squares(_noise(scale.num_compared, side, side), side)
    exact = ImageTower(clip, device, "fp32").embed(compared)
    slope = np.random.default_rng(0).normal(size=exact.shape[1])
    slope *= HEAD_SLOPE / np.linalg.norm(slope)
    for precision in PRECISIONS:
        off = np.abs((ImageTower(clip, device, precision).embed(compared) - exact) @ slope)
        agreement = f"score: mean {off.mean():.1e}, most {off.max():.1e}"
        for batch_size in batch_sizes:
            pixels = np.resize(compared, (batch_size, *compared.shape[1:]))
            tower = ImageTower(clip, device, precision, batch_size)
            _forget_peak(device)
            rate = _rate(lambda tower=tower, pixels=pixels: tower.embed(pixels), batch_size, device, scale)
            what = f"CLIP {architecture}, batch {batch_size}"
            yield Speed(what, precision, rate, "images", _peak_gb(device), agreement)
            agreement = ""


def _dis(scale: Scale) -> Speed:
    cv2.setNumThreads(1)
    clip = _moving(9, *scale.raft_size)
    rate = _rate(lambda: DisFlow().lengths([clip]), len(clip) - 1, "cpu", scale)
    return Speed("DIS flow, a core", "", rate, "pairs")


def _raft(network: str, device: str, scale: Scale) -> Iterator[Speed]:
    clip = _moving(max(scale.raft_batches) + 1, *scale.raft_size)
    exact = np.array(RaftFlow(network, None, device, precision="fp32").lengths([clip])[0])
    for precision in PRECISIONS:
        for batch_size in scale.raft_batches:
            flow = RaftFlow(network, None, device, precision=precision, batch_size=batch_size)
            off = np.abs(np.array(flow.lengths([clip])[0]) / exact - 1)
            pairs = clip[: batch_size + 1]
            _forget_peak(device)
            rate = _rate(lambda flow=flow, pairs=pairs: flow.lengths([pairs]), batch_size, device, scale)
            what = f"{network}, {scale.raft_size[0]}x{scale.raft_size[1]}, batch {batch_size}"
            agreement = f"length: mean {off.mean():.1e}, most {off.max():.1e} of it"
            yield Speed(what, precision, rate, "pairs", _peak_gb(device), agreement)


def _transnet(device: str, scale: Scale) -> Iterator[Speed]:
    num_windows = max(scale.windows)
    shots = np.repeat(_noise(num_windows * 4, HEIGHT_PX, WIDTH_PX), WINDOW // 4, axis=0)
    windows = shots.reshape(num_windows, WINDOW, HEIGHT_PX, WIDTH_PX, 3)
    exact = TransNet(device, "fp32").chances(windows)
    for precision in ("fp32", TRANSNET_PRECISION):
        network = TransNet(device, precision)
        for number in scale.windows:
            off = np.abs(np.concatenate([network.chances(part) for part in _parts(windows, number)]) - exact)
            call = windows[:number]
            _forget_peak(device)
            # Of a window the middle half counts.
            rate = _rate(
                lambda network=network, call=call: network.chances(call), number * STEP, device, scale
            )
            agreement = f"chance: most {off.max():.1e}"
            yield Speed(
                f"TransNetV2, {number} at once", precision, rate, "frames", _peak_gb(device), agreement
            )


def _parts(array: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    return [array[start : start + size] for start in range(0, len(array), size)]


def _rate(work: Callable[[], object], number: int, device: str, scale: Scale) -> float:
    """How many of `number` a call get done in a second, after a call to warm up."""
    if scale.seconds:
        work()
    calls = 0
    _wait(device)
    started = time.perf_counter()
    while calls == 0 or time.perf_counter() - started < scale.seconds:
        work()
        _wait(device)
        calls += 1
    return calls * number / (time.perf_counter() - started)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gb(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None


def _noise(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth blobs of color, [number, height, width, 3]: noise would lose its contrast when it is resized."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (number, -(-height // 8), -(-width // 8), 3), np.uint8)
    return np.stack([cv2.resize(item, (width, height), interpolation=cv2.INTER_CUBIC) for item in coarse])


def _moving(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """A picture that moves to the right by 3 pixels a frame."""
    (wide,) = _noise(1, height, width + 3 * number)
    return np.stack([wide[:, 3 * step : 3 * step + width] for step in range(number)])
