"""What the tokenizer does on a GPU, by the same lines on a CPU, where TF32 products are float32's.

That kernels there are right and quick can be seen on a card alone: `python -m benchmarks.gpu`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from curation.errors import ConfigError, MissingDependencyError
from curation.tokenize_shards.vision.arithmetic import check_precision, computing
from curation.tokenize_shards.vision.emu3 import Emu3Tokenizer, gpu_tokenizer
from curation.tokenize_shards.vision.sizes import Emu3Sizes
from curation.tokenize_shards.vision.spatial import ON_GPU, Calls
from curation.tokenize_shards.vision.tokenizer import Precision, load_tokenizer
from generated import texture

UNBUILT = replace(ON_GPU, backend=None)


def pictures(count: int, height: int, width: int, first: int = 0) -> NDArray[np.uint8]:
    """Frames that show a texture moving to the right."""
    numbers = range(first, first + count)
    return np.stack([np.roll(texture(height, width), 3 * number, axis=1) for number in numbers])


@pytest.fixture(scope="module")
def model() -> Any:
    """Emu3's layout, small, with attention; its vectors are spread over the codebook, so that errors show."""
    config = Emu3VQVAEConfig(
        base_channels=32, channel_multiplier=(1, 1, 2, 2), num_res_blocks=1, hidden_size=64
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Emu3VQVAE(config).eval()
    pixels = torch.from_numpy(pictures(8, 64, 64)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        hidden = model.encoder((pixels[None] / 255 - 0.5) / 0.5).permute(0, 2, 1, 3, 4)
        vectors = model.quant_conv(hidden).permute(0, 2, 3, 4, 1).reshape(-1, 4)
        # Codes are drawn from a standard normal distribution.
        convolution = model.quant_conv.conv
        convolution.weight /= vectors.std(dim=0)[:, None, None, None, None]
        convolution.bias.sub_(vectors.mean(dim=0)).div_(vectors.std(dim=0))
    return model


def on_gpu(model: Any, precision: Precision, calls: Calls = UNBUILT) -> Emu3Tokenizer:
    return gpu_tokenizer(copy.deepcopy(model), "cpu", precision, calls)


@pytest.mark.parametrize("precision", ["fp32", "tf32x3", "tf32"])
@pytest.mark.parametrize(
    "batch",
    [
        pytest.param([pictures(1, 96, 136, first) for first in range(5)], id="images"),
        pytest.param([pictures(8, 64, 72)], id="clip"),
        pytest.param([pictures(4, 40, 64), pictures(4, 40, 64, 9)], id="clips"),
    ],
)
def test_codes_equal_those_of_the_cpu(
    model: Any, precision: Precision, batch: Sequence[NDArray[np.uint8]]
) -> None:
    expected = Emu3Tokenizer(model, "cpu").encode(batch)
    assert len(np.unique(expected)) > np.size(expected) / 5
    np.testing.assert_array_equal(on_gpu(model, precision).encode(batch), expected)


@pytest.mark.parametrize("batch", [[pictures(1, 96, 136), pictures(1, 96, 136, 7)], [pictures(8, 64, 72)]])
def test_bf16_is_as_near_as_on_the_cpu_and_not_the_same(
    model: Any, batch: Sequence[NDArray[np.uint8]]
) -> None:
    exact = np.stack(Emu3Tokenizer(model, "cpu").encode(batch))
    on_cpu = np.stack(Emu3Tokenizer(model, "cpu", "bf16").encode(batch))
    found = np.stack(on_gpu(model, "bf16").encode(batch))
    assert 1 > (found == exact).mean() > (on_cpu == exact).mean() - 0.05


class TestBuiltKernels:
    """Of torch.compile; `aot_eager` traces and guards as a GPU's backend does, and computes as written."""

    SIZES = ((64, 96), (200, 40), (8, 8))

    def built(self, model: Any, precision: Precision, backend: Any = "aot_eager") -> Emu3Tokenizer:
        torch.compiler.reset()
        return on_gpu(model, precision, replace(ON_GPU, backend=backend, built_for_px=64))

    @pytest.mark.parametrize(("precision", "count"), [("fp32", 4), ("tf32x3", 1), ("bf16", 4)])
    def test_serve_every_size(self, model: Any, precision: Precision, count: int) -> None:
        counter = CompileCounterWithBackend("aot_eager")
        built, unbuilt = self.built(model, precision, counter), on_gpu(model, precision)
        if count > 1:
            built.build()  # as a worker does when it starts
            assert counter.frame_count == 1
        for height, width in self.SIZES:
            batch = [pictures(count, height, width)]
            np.testing.assert_array_equal(built.encode(batch), unbuilt.encode(batch))
        assert counter.frame_count == 1

    def test_are_built_for_one_size_whatever_comes_first(self, model: Any) -> None:
        # Sizes that kernels are built for tell how they add up, so the first picture must not choose.
        seen: list[set[int]] = []

        def backend(module: Any, inputs: list[Any]) -> Any:
            seen.append({value.node.hint for value in inputs if isinstance(value, torch.SymInt)})
            return module.forward

        for height, width in ((96, 64), (40, 200)):
            self.built(model, "tf32", backend).encode([pictures(1, height, width)])
        assert seen == [{64}, {64}]


class TestImagesTogether:
    @pytest.fixture
    def counted(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Emu3Tokenizer, list[int]]:
        tokenizer = on_gpu(model, "bf16")
        numbers: list[int] = []
        compute = tokenizer._spatial._run
        monkeypatch.setattr(
            tokenizer._spatial, "_run", lambda pixels: (numbers.append(len(pixels)), compute(pixels))[1]
        )
        return tokenizer, numbers

    def test_fill_calls_and_have_the_codes_that_they_have_alone(
        self, counted: tuple[Emu3Tokenizer, list[int]]
    ) -> None:
        tokenizer, numbers = counted
        images = [pictures(1, 40, 56, first) for first in range(9)]
        alone = [tokenizer.encode([image])[0] for image in images]
        tokenizer.encode(images[:4])  # tries whether they may
        numbers.clear()
        np.testing.assert_array_equal(tokenizer.encode(images), alone)
        assert numbers == [4, 4, 1]

    def test_are_called_alone_where_numbers_would_differ(
        self, counted: tuple[Emu3Tokenizer, list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As a library does that takes another kernel for four.
        tokenizer, numbers = counted
        compute = tokenizer._spatial._run
        monkeypatch.setattr(
            tokenizer._spatial, "_run", lambda pixels: compute(pixels) * (1 + 0.1 * (len(pixels) > 1))
        )
        images = [pictures(1, 40, 56, first) for first in range(8)]
        alone = [tokenizer.encode([image])[0] for image in images]
        np.testing.assert_array_equal(tokenizer.encode(images), alone)
        numbers.clear()
        tokenizer.encode(images)
        assert numbers == [1] * 8


def test_calls_of_a_clip_do_not_depend_on_its_neighbors(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = on_gpu(model, "tf32")
    shapes: list[tuple[int, ...]] = []
    compute = tokenizer._spatial._run
    monkeypatch.setattr(
        tokenizer._spatial, "_run", lambda pixels: (shapes.append(tuple(pixels.shape)), compute(pixels))[1]
    )
    for batch in ([pictures(8, 16, 24)], [pictures(8, 16, 24)] * 3):
        shapes.clear()
        tokenizer.encode(batch)
        assert set(shapes) == {(4, 3, 16, 24)}


class TestFramesOfACall:
    @pytest.mark.parametrize(("precision", "frames"), [("bf16", 4), ("tf32", 2), ("tf32x3", 2), ("fp32", 2)])
    def test_are_as_many_for_every_size_of_emu3(self, precision: Precision, frames: int) -> None:
        sizes = {Emu3Sizes(512 * 512).steps(720, width)[-1] for width in range(144, 3601)}
        assert len(sizes) > 100
        assert {ON_GPU.frames(precision, *size) for size in sizes} == {frames}

    # 528 x 528 = 278,784 pixels fit four and two times. 720 x 720 = 518,400 are 1.9 of them, 1024 x 1024 3.8.
    @pytest.mark.parametrize(
        ("precision", "side", "frames"),
        [("bf16", 720, 2), ("fp32", 720, 1), ("bf16", 1024, 1), ("fp32", 2048, 1), ("tf32", 8, 4)],
    )
    def test_are_fewer_of_larger_ones(self, precision: Precision, side: int, frames: int) -> None:
        assert ON_GPU.frames(precision, side, side) == frames


@pytest.mark.filterwarnings("ignore:(User provided device_type of 'cuda'|CUDA is not available)")
@pytest.mark.parametrize(
    ("precision", "tf32", "cudnn"),
    [("fp32", False, False), ("tf32x3", True, True), ("tf32", True, True), ("bf16", False, True)],
)
def test_flags_are_set_and_left_as_they_were(precision: Precision, tf32: bool, cudnn: bool) -> None:
    def flags() -> tuple[bool, ...]:
        now = torch.backends.cudnn
        matmul = torch.backends.cuda.matmul.allow_tf32
        return matmul, now.allow_tf32, now.enabled, now.benchmark, now.deterministic

    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        before = flags()
        with computing(precision, "cuda"):
            assert flags() == (tf32, tf32, cudnn, False, True)
        assert flags() == before


class TestPrecision:
    @pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
    def test_of_a_gpu_is_refused_without_one(self, precision: Precision) -> None:
        with pytest.raises(ConfigError, match=rf"tokens\.precision: {precision} is computed by NVIDIA GPUs"):
            load_tokenizer(None, "cpu", precision)

    @pytest.mark.parametrize(("capability", "is_refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
    def test_tf32_is_refused_where_a_gpu_would_compute_float32(
        self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], is_refused: bool
    ) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        if is_refused:
            with pytest.raises(ConfigError, match="from Ampere on"):
                check_precision("tf32", "cuda")
        else:
            check_precision("tf32", "cuda")
        check_precision("bf16", "cuda")

    def test_needs_a_compiler_on_a_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
        check_precision("fp32", "cpu")
        with pytest.raises(MissingDependencyError, match="apt-get install gcc python3-dev"):
            check_precision("fp32", "cuda")
