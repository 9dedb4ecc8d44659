"""A configuration as run.json keeps it: with overrides, and with paths that mean the same on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from curation.stage import StageConfig
from curation.storage.paths import as_written


def resolved(data: Mapping[str, Any], checked: Mapping[str, StageConfig]) -> dict[str, Any]:
    """`data` with home folders and environment variables replaced in paths; the rest as it was written.

    Args:
        data: Settings as they were read.
        checked: What was made of them, by the dotted name of their section; "" is the top.
    """
    return {str(key): _section(str(key), value, checked) for key, value in data.items()}


def _section(name: str, data: Any, checked: Mapping[str, StageConfig]) -> Any:
    if name in checked:
        return _expanded(data, checked[name])
    if name in getattr(checked[""], "model_fields_set", ()):
        return _expanded(data, getattr(checked[""], name))
    if isinstance(data, Mapping):
        return {key: _section(f"{name}.{key}", value, checked) for key, value in data.items()}
    return data


def _expanded(data: Any, value: Any) -> Any:
    """`data`, each text of it as the settings made of it have it."""
    if isinstance(data, str) and isinstance(value, str):
        return data if data == value else as_written(value)
    if isinstance(data, Mapping) and isinstance(value, BaseModel | Mapping):
        made = value if isinstance(value, Mapping) else vars(value)
        return {key: _expanded(item, made.get(key)) for key, item in data.items()}
    if isinstance(data, list) and isinstance(value, list | tuple) and len(data) == len(value):
        return [_expanded(item, one) for item, one in zip(data, value, strict=True)]
    return data
