"""Reads Emu3's vision tokenizer from a folder: as transformers saves it, or as BAAI published it.

BAAI/Emu3-VisionTokenizer names its weights otherwise than transformers does and attends with 1 x 1
convolutions instead of linear layers; the numbers are the same. Its own code is never run.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import ConfigError

if TYPE_CHECKING:
    import torch

CODEBOOK_SIZE = 32_768
ORIGINAL_TYPE = "Emu3VisionVQ"

_CONFIG_NAMES = {
    "codebook_size": "codebook_size",
    "embed_dim": "embed_dim",
    "z_channels": "latent_channels",
    "double_z": "double_latent",
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "temporal_downsample_factor": "temporal_downsample_factor",
    "ch": "base_channels",
    "ch_mult": "channel_multiplier",
    "num_res_blocks": "num_res_blocks",
    "attn_resolutions": "attn_resolutions",
}

_WEIGHT_NAMES = (
    (re.compile(r"^encoder\.down\."), "encoder.down_block.down."),
    (re.compile(r"^decoder\.up\."), "decoder.up_block.up."),
    (re.compile(r"\.mid\."), ".middle_block."),
    (re.compile(r"\.attn_1\.norm\."), ".attn_norm."),
    (re.compile(r"\.attn\.(\d+)\.norm\."), r".attn_norms.\1."),
    (re.compile(r"(\.attn(?:_1|\.\d+)\.[qkv])\."), r"\1_proj."),
    (re.compile(r"(\.attn(?:_1|\.\d+))\.proj_out\."), r"\1.out_proj."),
)
_ATTENTION_WEIGHT = re.compile(r"\.attn(?:_1|\.\d+)\.\w+_proj\.weight$")


def load_model(folder: Path) -> Any:
    """An `Emu3VQVAE` of transformers in float32.

    Raises:
        ConfigError: its codebook is not Emu3's, or weights are missing.
    """
    config = _read_config(folder)
    if config.get("codebook_size", CODEBOOK_SIZE) != CODEBOOK_SIZE:
        raise ConfigError(f"{folder} has {config['codebook_size']} codes, Emu3 has {CODEBOOK_SIZE}")
    return (
        _from_original(folder, config) if config.get("model_type") == ORIGINAL_TYPE else _from_saved(folder)
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no model: its config.json can't be read ({error})") from error
    return config


def _from_saved(folder: Path) -> Any:
    import torch
    from transformers import Emu3VQVAE

    model, loaded = Emu3VQVAE.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    # transformers draws missing weights at random and goes on.
    _check_none_missing(folder, loaded["missing_keys"])
    return model


def _from_original(folder: Path, config: dict[str, Any]) -> Any:
    from safetensors.torch import load_file
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    known = {new: config[old] for old, new in _CONFIG_NAMES.items() if old in config}
    settings = Emu3VQVAEConfig(**known)
    settings.hidden_size = settings.base_channels * settings.channel_multiplier[-1]
    model = Emu3VQVAE(settings)
    state: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= {key: value.float() for key, value in load_file(path).items()}
    found = model.load_state_dict(renamed(state), strict=False)
    _check_none_missing(folder, found.missing_keys)
    return model


def _check_none_missing(folder: Path, keys: Any) -> None:
    # How many batches a norm has seen matters only in training.
    missing = sorted(key for key in keys if not key.endswith("num_batches_tracked"))
    if missing:
        raise ConfigError(
            f"{folder} is no Emu3 vision tokenizer: {len(missing)} weights such as {missing[0]} are missing"
        )


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of BAAI's checkpoint under transformers' names."""
    new = {}
    for name, value in state.items():
        for pattern, replacement in _WEIGHT_NAMES:
            name = pattern.sub(replacement, name)
        new[name] = value[:, :, 0, 0] if _ATTENTION_WEIGHT.search(name) and value.ndim == 4 else value
    return new
