"""Settings as people write them: a YAML file, and `--set KEY=VALUE` on top of it.

YAML is read strictly: a key that stands twice in a mapping is refused, where PyYAML would take the last one
without a word.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from curation.errors import ConfigError
from curation.storage import storage_of


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_settings(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a YAML file, which may lie in a bucket, changed by "a.b=value" overrides.

    Raises:
        StorageError: the bucket can't be reached.
        ConfigError: the file can't be read, is not YAML in UTF-8 or holds no settings, or an override is odd.
    """
    return parse_settings(read_bytes(path), path, overrides)


def parse_settings(data: bytes, path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings in the bytes of a YAML file called `path`, changed by overrides.

    Raises:
        ConfigError: they are not YAML in UTF-8 or hold no settings, or an override is odd.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}") from error
    try:
        settings = _parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not {_kind(settings)}")
    return parse_overrides(overrides, settings)


def parse_overrides(overrides: Sequence[str], data: dict[str, Any] | None = None) -> dict[str, Any]:
    """`data` with "a.b=value" put in its place, the value in YAML; null takes a whole section out.

    Raises:
        ConfigError: an override is odd.
    """
    data = {} if data is None else data
    for override in overrides:
        _override(data, override)
    return data


def put_settings(data: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with the value of each dotted name in its place; None takes a whole section out.

    Raises:
        ConfigError: a name lies below what is no section.
    """
    for name, value in values.items():
        _put(data, name.split("."), value, name)
    return data


def read_bytes(path: str) -> bytes:
    """What is in a configuration file, which may lie in a bucket.

    Raises:
        StorageError: the bucket can't be reached.
        ConfigError: the file can't be read.
    """
    if "://" not in path:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    storage, key = storage_of(path)
    data = storage.read(key)
    if data is None:
        raise ConfigError(f"cannot read the configuration {path}: there is no such object")
    return data


def _parse(text: str) -> Any:
    loader = _StrictLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _kind(data: object) -> str:
    return "nothing" if data is None else "a list" if isinstance(data, list) else f"{data!r:.50}"


def _override(data: dict[str, Any], override: str) -> None:
    """Put a value in its place; null takes a whole section out."""
    name, separator, value = override.partition("=")
    path = [part.strip() for part in name.split(".")]
    if not separator or not all(path) or not value.strip():
        raise ConfigError(
            f"--set {override}: must look like images.aesthetic.min_score=5.2, with null for nothing"
        )
    try:
        parsed = _parse(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    _put(data, path, parsed, f"--set {override}")


def _put(data: dict[str, Any], path: Sequence[str], value: Any, said: str) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{said}: {part} is not a section")
    if value is None and isinstance(data.get(path[-1]), Mapping):
        del data[path[-1]]
    else:
        data[path[-1]] = value
