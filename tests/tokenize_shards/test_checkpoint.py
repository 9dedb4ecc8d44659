"""BAAI's own checkpoint format: other names, attention as 1 x 1 convolutions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Emu3VQVAE, Emu3VQVAEConfig

from curation.errors import ConfigError
from curation.tokenize_shards.vision.checkpoint import renamed
from curation.tokenize_shards.vision.emu3 import Emu3Tokenizer
from curation.tokenize_shards.vision.tokenizer import load_tokenizer

ORIGINAL_CONFIG = {
    "model_type": "Emu3VisionVQ",
    "codebook_size": 32768,
    "embed_dim": 4,
    "z_channels": 4,
    "ch": 32,
    "ch_mult": [1, 1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [3],
    "dropout": 0.0,
}


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Emu3VQVAE(
            Emu3VQVAEConfig(
                base_channels=32,
                channel_multiplier=(1, 1, 1, 2),
                num_res_blocks=1,
                attn_resolutions=(3,),
                hidden_size=64,
            )
        ).eval()


def as_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the names of emu3/tokenizer/modeling_emu3visionvq.py in baaivision/Emu3."""
    back = [
        ("encoder.down_block.down", "encoder.down"),
        ("decoder.up_block.up", "decoder.up"),
        ("middle_block.attn_norm.", "mid.attn_1.norm."),
        ("middle_block", "mid"),
        ("out_proj", "proj_out"),
        ("q_proj", "q"),
        ("k_proj", "k"),
        ("v_proj", "v"),
    ]
    published = {}
    for name, value in state.items():
        for new, old in back:
            name = name.replace(new, old)
        name = re.sub(r"attn_norms\.(\d+)\.", r"attn.\1.norm.", name)
        is_attention = re.search(r"\.(q|k|v|proj_out)\.weight$", name)
        published[name] = (value[:, :, None, None] if is_attention else value).contiguous()
    return published


def published_folder(folder: Path, model: Any, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(ORIGINAL_CONFIG | changes))
    save_file(as_published(model.state_dict()), folder / "model.safetensors")
    return folder


def test_names_are_those_of_the_published_code(model: Any) -> None:
    """Read off the published module tree by hand."""
    names = set(as_published(model.state_dict()))
    for name in (
        "encoder.conv_in.weight",
        "encoder.down.0.block.0.norm1.weight",
        "encoder.down.0.downsample.conv.weight",
        "encoder.down.3.block.0.nin_shortcut.weight",
        "encoder.down.3.attn.0.norm.weight",
        "encoder.down.3.attn.0.q.weight",
        "encoder.down.3.attn.0.proj_out.bias",
        "encoder.mid.block_1.conv1.weight",
        "encoder.mid.attn_1.norm.bias",
        "encoder.mid.attn_1.v.weight",
        "encoder.time_conv.0.conv.conv.weight",
        "encoder.time_res_stack.0.norm1.running_mean",
        "decoder.mid.attn_1.norm.norm_layer.weight",
        "decoder.up.3.attn.0.norm.conv_y.weight",
        "decoder.up.1.upsample.conv.weight",
        "quant_conv.conv.weight",
        "quantize.embedding.weight",
    ):
        assert name in names


def test_every_weight_finds_its_place(model: Any) -> None:
    state = model.state_dict()
    back = renamed(as_published(state))
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_published_folder_gives_the_same_codes(model: Any, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(published_folder(tmp_path / "m", model), "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3)).astype(np.uint8)
    assert np.array_equal(tokenizer.encode([pixels])[0], Emu3Tokenizer(model, "cpu").encode([pixels])[0])


def test_linear_attention_is_the_published_one(model: Any) -> None:
    """The published block by hand: 1 x 1 convolutions, softmax(q'k / sqrt(c)) over positions, residual."""
    block, norm = model.encoder.middle_block.attn_1, model.encoder.middle_block.attn_norm
    weights = {
        name: (layer.weight[:, :, None, None], layer.bias)
        for name, layer in (
            ("q", block.q_proj),
            ("k", block.k_proj),
            ("v", block.v_proj),
            ("o", block.out_proj),
        )
    }
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 64, 3, 5))).float()
    with torch.inference_mode():
        middle = model.encoder.middle_block
        before = middle.block_1(features)
        got = middle(features)
        normed = norm(before)
        query, key, value = (torch.conv2d(normed, *weights[name]).reshape(1, 64, 15) for name in "qkv")
        score = torch.softmax(query.permute(0, 2, 1) @ key / 64**0.5, dim=2)
        attended = (value @ score.permute(0, 2, 1)).reshape(1, 64, 3, 5)
        expected = middle.block_2(before + torch.conv2d(attended, *weights["o"]))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_half_a_checkpoint_is_refused(model: Any, tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "m", model)
    state = as_published(model.state_dict())
    del state["encoder.mid.attn_1.q.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"1 weights such as encoder\.middle_block\.attn_1\.q_proj\.weight"):
        load_tokenizer(folder, "cpu")


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no model"):
        load_tokenizer(tmp_path, "cpu")
