"""The vision tokenizer. The reference is transformers' own `Emu3VQVAE.encode`, on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from curation.errors import ConfigError, TokenizeError
from curation.tokenize_shards.vision.emu3 import Emu3Tokenizer, stand_in_model
from curation.tokenize_shards.vision.tokenizer import Precision, load_tokenizer
from generated import texture

TIE = 1e-4
"""Squared distances this close, relatively, are a tie: float32 sums in another order decide it otherwise."""


def normalized(frames: NDArray[np.uint8]) -> torch.Tensor:
    """[T, 3, H, W] of [T, H, W, 3], laid out as transformers' image processor does."""
    return (torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5) / 0.5


def noise(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def shapes(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frames with a gradient and a moving bright square."""
    down, across = np.mgrid[0:height, 0:width]
    frames = np.stack([np.stack([down * 2, across * 2, down + across], axis=-1)] * count).clip(0, 255)
    for index, frame in enumerate(frames):
        frame[8:24, 4 + 3 * index : 20 + 3 * index] = 250
    return frames.astype(np.uint8)


def reference(model: Any, frames: NDArray[np.uint8]) -> tuple[NDArray[Any], torch.Tensor]:
    """Codes by transformers, and the vectors that it looks up: [T', H', W'] and [T', H', W', 4]."""
    pixels = normalized(frames)
    # Sizes this large switch off the cropping, which takes time for height where there is time.
    sizes = torch.tensor([[10_000, 10_000]])
    with torch.inference_mode():
        encoded = model.encode(pixels if len(frames) == 1 else pixels[None], sizes)
        vectors = model.quant_conv(encoded.last_hidden_state.permute(0, 2, 1, 3, 4))[0]
    codes = encoded.image_tokens[0].numpy()
    return (codes[None] if len(frames) == 1 else codes), vectors.permute(1, 2, 3, 0)


def parts_of_transformers(model: Any, frames: NDArray[np.uint8]) -> NDArray[Any]:
    """[T', H', W'] codes by its encoder, quant_conv and quantizer, called one after the other on a clip."""
    pixels = normalized(frames)
    with torch.inference_mode():
        hidden = model.encoder(pixels[None])
        hidden = model.quant_conv(hidden.permute(0, 2, 1, 3, 4)).permute(0, 2, 1, 3, 4)
        return model.quantize(hidden)[0].numpy()


def distances(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Squared distances [N, 32768] of [N, 4] vectors, one by one and in float64."""
    return ((vectors.double()[:, None] - codebook.double()[None]) ** 2).sum(dim=-1)


def assert_nearest(codes: Any, vectors: torch.Tensor, codebook: torch.Tensor) -> None:
    """Every code is the nearest entry by brute force, but for ties, which are few."""
    flat, found = vectors.reshape(-1, 4), torch.as_tensor(np.asarray(codes, np.int64).reshape(-1))
    num_ties = 0
    for part, part_found in zip(flat.split(32), found.split(32), strict=True):
        squared = distances(part, codebook)
        least = squared.min(dim=1)
        own = squared.gather(1, part_found[:, None])[:, 0]
        assert (own <= least.values + TIE * (1 + least.values)).all()
        num_ties += int((least.indices != part_found).sum())
    assert num_ties <= 0.03 * len(flat)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(shapes(1, 64, 96), id="image"),
        pytest.param(noise(1, 72, 40), id="portrait image"),
        pytest.param(shapes(8, 64, 96), id="landscape clip"),
        pytest.param(noise(4, 40, 40), id="square clip"),
        pytest.param(shapes(8, 96, 40), id="portrait clip"),
        pytest.param(noise(36, 32, 40), id="clip of more groups than rows"),
    ],
)
def test_codes_equal_those_of_transformers(stand_in: Emu3Tokenizer, frames: NDArray[np.uint8]) -> None:
    codes = stand_in.encode([frames])[0]
    expected, vectors = reference(stand_in.model, frames)
    assert codes.shape == expected.shape
    assert codes.dtype == np.uint16
    np.testing.assert_array_equal(codes, expected)
    assert_nearest(codes, vectors, stand_in.model.quantize.embedding.weight.detach())


@pytest.mark.parametrize(
    ("frames", "size"), [(shapes(1, 64, 96), (64, 96)), (shapes(8, 64, 96), (64, 96))], ids=["image", "clip"]
)
def test_codes_equal_those_of_transformers_with_true_sizes(
    stand_in: Emu3Tokenizer, frames: NDArray[np.uint8], size: tuple[int, int]
) -> None:
    pixels = normalized(frames)
    with torch.inference_mode():
        encoded = stand_in.model.encode(pixels if len(frames) == 1 else pixels[None], torch.tensor([size]))
    expected = encoded.image_tokens[0].numpy().reshape(-1, 8, 12)
    np.testing.assert_array_equal(stand_in.encode([frames])[0], expected)


def test_portrait_clip_keeps_its_rows(stand_in: Emu3Tokenizer) -> None:
    frames = shapes(8, 96, 40)
    codes = stand_in.encode([frames])[0]
    assert codes.shape == (2, 12, 5)  # transformers' encode crops this to (2, 5, 5) with the true sizes
    np.testing.assert_array_equal(codes, parts_of_transformers(stand_in.model, frames))


def pale(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Almost white frames: large sums of almost equal numbers."""
    return 248 + texture(height, width) // 43 + np.arange(count, dtype=np.uint8)[:, None, None, None] % 2


def colorful(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frames that show a texture moving to the right."""
    return np.stack([np.roll(texture(height, width), 3 * index, axis=1) for index in range(count)])


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Emu3's layout at a quarter of its width, with Winograd's convolutions and attention in it.

    Weights are random, but vectors are spread over the codebook, so that an inexact one finds another code.
    """
    config = Emu3VQVAEConfig(
        base_channels=64, channel_multiplier=(1, 1, 2, 2), num_res_blocks=1, hidden_size=128
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Emu3VQVAE(config).eval()
    pictures = [colorful(1, 128, 128), pale(1, 128, 128)]
    vectors = torch.cat([reference(model, frames)[1].reshape(-1, 4) for frames in pictures])
    convolution = model.quant_conv.conv
    with torch.no_grad():
        # Codes are drawn from a standard normal distribution.
        convolution.weight /= vectors.std(dim=0)[:, None, None, None, None]
        convolution.bias.sub_(vectors.mean(dim=0)).div_(vectors.std(dim=0))
    folder = tmp_path_factory.mktemp("tokenizer")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide_reference(wide_folder: Path) -> Any:
    return Emu3VQVAE.from_pretrained(wide_folder).eval()


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(pale(1, 256, 256), id="pale image"),
        pytest.param(colorful(1, 128, 304), id="wide image"),
        pytest.param(colorful(1, 200, 136), id="image of odd tiles"),
        pytest.param(colorful(8, 64, 96), id="clip"),
        pytest.param(pale(4, 200, 136), id="pale clip of odd tiles"),
    ],
)
def test_codes_at_64_channels_equal_those_of_transformers(
    wide_folder: Path, wide_reference: Any, frames: NDArray[np.uint8]
) -> None:
    expected, _ = reference(wide_reference, frames)
    assert len(np.unique(expected)) > expected.size / 5
    np.testing.assert_array_equal(load_tokenizer(wide_folder, "cpu").encode([frames])[0], expected)


@pytest.mark.parametrize(("precision", "count"), [("fp32", 1), ("fp32", 4), ("bf16", 1)])
def test_every_group_norm_works_on_contiguous_numbers(
    wide_folder: Path, precision: Precision, count: int
) -> None:
    tokenizer = load_tokenizer(wide_folder, "cpu", precision, decodes=True)
    assert isinstance(tokenizer, Emu3Tokenizer)
    layouts: list[bool] = []
    for module in tokenizer.model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_pre_hook(lambda module, inputs: layouts.append(inputs[0].is_contiguous()))
    (grid,) = tokenizer.encode([noise(count, 40, 24)])
    # Two in each of the encoder's six residual blocks, one for attention in either place, one at the end.
    assert len(layouts) == 15 * count
    tokenizer.decode(grid, is_image=count == 1)
    assert len(layouts) > 15 * count  # the decoder has some too
    assert all(layouts)


def test_codes_depend_on_the_picture(stand_in: Emu3Tokenizer) -> None:
    one, other = stand_in.encode([noise(1, 64, 64, 1)])[0], stand_in.encode([noise(1, 64, 64, 2)])[0]
    assert len(np.unique(one)) > 16
    assert (one != other).mean() > 0.5


def test_frames_are_not_written_to(stand_in: Emu3Tokenizer) -> None:
    frames = noise(4, 16, 16)
    frames.setflags(write=False)
    before = frames.copy()
    stand_in.encode([frames])
    np.testing.assert_array_equal(frames, before)


def test_nearest_code_equals_brute_force(stand_in: Emu3Tokenizer) -> None:
    codebook = stand_in.model.quantize.embedding.weight.detach()
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.01, 1.0, 3.0, 30.0]).repeat(32)[:, None, None]
    vectors = torch.randn(128, 1, 4, generator=generator)[:, :, None] * spread[..., None]
    assert_nearest(stand_in._nearest(vectors), vectors, codebook)


def test_nearest_codes_equal_those_of_the_quantizer(stand_in: Emu3Tokenizer) -> None:
    # Several blocks of the search and a part of one, with vectors near to and far from the codes.
    spread = torch.logspace(-3, 2, 333)[:, None]
    vectors = torch.randn(333, 4, generator=torch.Generator().manual_seed(0)) * spread
    with torch.inference_mode():
        expected = stand_in.model.quantize(vectors.view(1, 3, 3, 37, 4).permute(0, 1, 4, 2, 3))[0]
    np.testing.assert_array_equal(stand_in._nearest(vectors.view(3, 3, 37, 4)), expected)


def test_nearest_code_of_a_code_is_itself(stand_in: Emu3Tokenizer) -> None:
    codebook = stand_in.model.quantize.embedding.weight.detach()
    number = torch.arange(0, 32_768, 5)  # more than fit into one block of the search
    found = stand_in._nearest(codebook[number][:, None, None])
    assert (found[:, 0, 0] == number).float().mean() > 0.999


@pytest.mark.parametrize("count", [1, 8])
def test_batch_equals_singles_to_the_bit(stand_in: Emu3Tokenizer, count: int) -> None:
    batch = [noise(count, 48, 40, seed) for seed in range(3)]
    for grid, frames in zip(stand_in.encode(batch), batch, strict=True):
        np.testing.assert_array_equal(grid, stand_in.encode([frames])[0])


def test_empty_batch(stand_in: Emu3Tokenizer) -> None:
    assert stand_in.encode([]) == []


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        pytest.param([noise(1, 16, 16).astype(np.float32)], "float32", id="floats, which could be NaN"),
        pytest.param([np.full((1, 16, 16, 3), np.nan)], "float64", id="NaN"),
        pytest.param([noise(1, 16, 16)[0]], r"\[16, 16, 3\]", id="no time"),
        pytest.param([noise(1, 16, 16)[..., :1]], r"\[1, 16, 16, 1\]", id="gray"),
        pytest.param([noise(4, 16, 16)[:0]], "0 frames", id="no frame"),
        pytest.param([noise(1, 16, 16)[:, :0]], "16x0", id="no pixel"),
        pytest.param([noise(1, 16, 16), noise(1, 16, 24)], "one shape", id="two shapes"),
    ],
)
def test_what_is_no_frame_is_refused(stand_in: Emu3Tokenizer, batch: Any, problem: str) -> None:
    with pytest.raises(TokenizeError, match=problem):
        stand_in.encode(batch)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((1, 60, 64), "64x60 are not multiples of 8"),
        ((1, 64, 68), "68x64 are not multiples of 8"),
        ((3, 16, 16), "3 frames are not a multiple of 4"),
        ((6, 16, 16), "6 frames are not a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    stand_in: Emu3Tokenizer, shape: tuple[int, int, int], problem: str
) -> None:
    with pytest.raises(TokenizeError, match=problem):
        stand_in.encode([noise(*shape)])


def test_stand_in_is_the_same_each_time_and_leaves_the_seed_alone(stand_in: Emu3Tokenizer) -> None:
    torch.manual_seed(123)
    undisturbed = torch.rand(1)
    torch.manual_seed(123)
    again = Emu3Tokenizer(stand_in_model(), "cpu")
    assert torch.equal(torch.rand(1), undisturbed)
    ours, theirs = stand_in.model.state_dict(), again.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    frames = noise(4, 32, 48)
    np.testing.assert_array_equal(again.encode([frames])[0], stand_in.encode([frames])[0])


class TestDecode:
    def test_image_equals_transformers(self, stand_in: Emu3Tokenizer) -> None:
        (grid,) = stand_in.encode([shapes(1, 40, 64)])
        with torch.inference_mode():
            values = stand_in.model.decode(torch.from_numpy(grid.astype(np.int64)))[0]
        frames = stand_in.decode(grid, is_image=True)
        assert (frames.shape, frames.dtype) == ((1, 40, 64, 3), np.uint8)
        expected = ((values.permute(1, 2, 0).numpy() * 0.5 + 0.5) * 255).clip(0, 255)
        assert np.abs(frames[0] - expected).max() <= 0.5 + 1e-3  # rounding alone

    def test_first_groups_do_not_depend_on_later_ones(self, stand_in: Emu3Tokenizer) -> None:
        (grid,) = stand_in.encode([shapes(12, 32, 40)])
        whole, part = (stand_in.decode(codes, is_image=False) for codes in (grid, grid[:1]))
        assert (whole.shape, part.shape) == ((12, 32, 40, 3), (4, 32, 40, 3))
        # Equal but where rounding to whole levels falls the other way.
        assert np.abs(whole[:4].astype(int) - part).max() <= 1


@pytest.mark.parametrize(
    ("frames", "least"), [(shapes(1, 64, 96), 0.5), (shapes(8, 64, 96), 0.5)], ids=["image", "clip"]
)
def test_bf16_is_near_but_not_the_same(stand_in: Emu3Tokenizer, frames: Any, least: float) -> None:
    # That it is used at all, and not off by more than rounding, with the stand-in's weights.
    half = Emu3Tokenizer(stand_in.model, "cpu", "bf16")
    agreement = (half.encode([frames])[0] == stand_in.encode([frames])[0]).mean()
    assert least < agreement < 1


class TestSavedFolder:
    @pytest.fixture
    def folder(self, stand_in: Emu3Tokenizer, tmp_path: Path) -> Path:
        stand_in.model.save_pretrained(tmp_path / "tokenizer")
        return tmp_path / "tokenizer"

    def test_gives_the_same_codes(self, stand_in: Emu3Tokenizer, folder: Path) -> None:
        frames = noise(4, 32, 48)
        np.testing.assert_array_equal(
            load_tokenizer(folder, "cpu").encode([frames])[0], stand_in.encode([frames])[0]
        )

    def test_in_half_precision_is_used_in_float32(self, stand_in: Emu3Tokenizer, folder: Path) -> None:
        weights = {name: part.half() for name, part in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace('"float32"', '"float16"')
        )
        frames = shapes(1, 64, 64)
        codes = load_tokenizer(folder, "cpu").encode([frames])[0]
        assert (codes == stand_in.encode([frames])[0]).mean() > 0.5  # rounded weights move some codes

    def test_with_missing_weights_is_refused(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file(
            {name.replace("encoder.down_block.", "encoder."): part for name, part in weights.items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )
        with pytest.raises(ConfigError, match=r"weights such as encoder\.down_block\..* are missing"):
            load_tokenizer(folder, "cpu")

    def test_with_another_codebook_is_refused(self, tmp_path: Path) -> None:
        config = Emu3VQVAEConfig(
            codebook_size=1024,
            base_channels=32,
            channel_multiplier=(1, 1, 1, 1),
            num_res_blocks=1,
            attn_resolutions=(),
            hidden_size=32,
        )
        Emu3VQVAE(config).save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="has 1024 codes, Emu3 has 32768"):
            load_tokenizer(tmp_path, "cpu")
