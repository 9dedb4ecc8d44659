"""Loads files of weights as data: a pickle that would run code is refused, whoever configured it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curation.errors import ConfigError
from curation.errors.isolation import isolated

_MAX_SHOWN = 300


def load_weights(path: Path) -> Any:
    """What a file of torch's holds, on the CPU: tensors, and containers of them.

    Raises:
        ConfigError: it holds anything else, or is damaged.
    """
    import torch

    try:
        with isolated(ConfigError):
            return torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError as error:
        raise ConfigError(f"{path} holds no weights: {str(error)[:_MAX_SHOWN]}") from error
