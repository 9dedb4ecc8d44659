"""Reads Emu3's vision tokenizer from a folder: as transformers saves it, or as BAAI published it.

BAAI/Emu3-VisionTokenizer names its weights otherwise than transformers does and attends with 1 x 1
convolutions instead of linear layers; the numbers are the same. Its own code is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import ConfigError
from curation.tokenize_shards.vision.tokenizer import CODEBOOK_SIZE

if TYPE_CHECKING:
    import torch

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


def load_model(folder: Path, *, decodes: bool) -> Any:
    """An `Emu3VQVAE` of transformers in float32; without its decoder unless `decodes`.

    Raises:
        ConfigError: its codebook is not Emu3's, or weights are missing.
    """
    import torch
    from transformers import Emu3VQVAE

    config = _read_config(folder)
    if config.get("codebook_size", CODEBOOK_SIZE) != CODEBOOK_SIZE:
        raise ConfigError(f"{folder} has {config['codebook_size']} codes, Emu3 has {CODEBOOK_SIZE}")
    is_original = config.get("model_type") == ORIGINAL_TYPE
    with torch.device("meta"):
        model = Emu3VQVAE(_original_settings(config) if is_original else _saved_settings(config))
    if not decodes:
        drop_decoder(model)
    state = _read_weights(folder, model.state_dict().keys(), is_original=is_original)
    # How many batches a norm has seen matters only in training; some files leave it out.
    counts = {key for key in model.state_dict() if key.endswith("num_batches_tracked")} - state.keys()
    state |= {key: torch.zeros((), dtype=torch.int64) for key in counts}
    try:
        found = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"{folder} holds weights of other sizes than its config.json tells") from error
    _check_none_missing(folder, found.missing_keys)
    return model


def drop_decoder(model: Any) -> None:
    """Let go of what only decoding needs: 161 of 271 million weights."""
    model.decoder = model.post_quant_conv = None


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no model: its config.json can't be read ({error})") from error
    return config


def _saved_settings(config: dict[str, Any]) -> Any:
    from transformers import Emu3VQVAEConfig

    return Emu3VQVAEConfig.from_dict(config)


def _original_settings(config: dict[str, Any]) -> Any:
    from transformers import Emu3VQVAEConfig

    known = {new: config[old] for old, new in _CONFIG_NAMES.items() if old in config}
    settings = Emu3VQVAEConfig(**known)
    settings.hidden_size = settings.base_channels * settings.channel_multiplier[-1]
    return settings


def _read_weights(folder: Path, wanted: Collection[str], *, is_original: bool) -> dict[str, torch.Tensor]:
    """Those that are wanted, one by one, so that what is not is never in memory."""
    from safetensors import SafetensorError, safe_open

    state: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  it is no mapping
                    name = _new_name(key) if is_original else key
                    if name in wanted:
                        state[name] = _new_shape(name, file.get_tensor(key)).float()
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path} can't be read: {error}") from error
    return state


def _check_none_missing(folder: Path, keys: Any) -> None:
    missing = sorted(keys)
    if missing:
        raise ConfigError(
            f"{folder} is no Emu3 vision tokenizer: {len(missing)} weights such as {missing[0]} are missing"
        )


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of BAAI's checkpoint under transformers' names."""
    return {_new_name(name): _new_shape(_new_name(name), value) for name, value in state.items()}


def _new_name(name: str) -> str:
    for pattern, replacement in _WEIGHT_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _new_shape(name: str, value: torch.Tensor) -> torch.Tensor:
    """A 1 x 1 convolution of attention as the linear layer that it is."""
    return value[:, :, 0, 0] if _ATTENTION_WEIGHT.search(name) and value.ndim == 4 else value
