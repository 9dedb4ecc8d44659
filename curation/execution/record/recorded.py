"""The configuration that an output was made with, from its run.json: by it an output alone can be read.

config = recorded_config("s3://bucket/out", ["images.aesthetic.min_score=5.2"])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from curation.config import Config, parse_config
from curation.config.settings_file import parse_overrides
from curation.errors import ConfigError
from curation.errors.redaction import HIDDEN
from curation.execution.record.run_record import RUN, read_run
from curation.ledger import Ledger
from curation.storage import open_storage
from curation.storage.access import check_input
from curation.storage.paths import expand_path
from curation.version import __version__

NAME_IT = "name the configuration by --config"


def recorded_config(
    output: str, overrides: Sequence[str] = (), *, to_measure: bool = False, **fields: Any
) -> Config:
    """The configuration of the last run that had work in `output`, changed.

    Args:
        output: A folder or a URL.
        overrides: "a.b=value" settings that replace recorded ones.
        to_measure: As for `recorded_settings`.
        fields: Top-level settings that replace recorded ones; None leaves them.

    Raises:
        ConfigError: as `recorded_settings`, or a problem of the settings, under its dotted name.
        DamagedFileError: run.json is damaged.
        StorageError: the output can't be reached.
    """
    name, data = recorded_settings(output, to_measure=to_measure, replaced=overrides)
    changed = parse_overrides(overrides, data)
    changed.update({key: value for key, value in fields.items() if value is not None})
    return replace(parse_config(changed, name), overrides=tuple(overrides))


def recorded_settings(
    output: str, *, to_measure: bool = False, replaced: Sequence[str] = ()
) -> tuple[str, dict[str, Any]]:
    """The settings of the last run that had work in `output`, and what messages call them.

    Args:
        output: A folder or a URL; the settings have it as their output.
        to_measure: Whether they are wanted for more than reading, which secrets that run.json hides forbid.
        replaced: Names of settings, or what begins with them, whose secrets don't matter.

    Raises:
        ConfigError: there is no output, it tells no configuration, or one that this version can't read.
        DamagedFileError: run.json is damaged.
        StorageError: the output can't be reached.
    """
    try:
        storage = open_storage(expand_path(output))
    except ValueError as error:
        raise ConfigError(f"output: {error}") from error
    check_input(storage.root)
    record = read_run(storage)
    if not record and not Ledger(storage).units():
        raise ConfigError(f"{storage.root} is no output of a run; `curation run` would make it one")
    place = f"{storage.root}/{RUN}"
    data = record.get("config")
    if not isinstance(data, dict):
        raise ConfigError(f"{place} tells no configuration; {NAME_IT}")
    data["output"] = output
    if to_measure:
        _check_nothing_hidden(place, data, replaced)
    return _named(place, record), data


def _named(place: str, record: Mapping[str, Any]) -> str:
    """run.json as messages call it: another version may know other settings."""
    version = record.get("curation")
    return place if version == __version__ else f"{place}, of curation {version} (this is {__version__})"


def _check_nothing_hidden(place: str, data: Mapping[str, Any], replaced: Sequence[str]) -> None:
    known = {text.partition("=")[0].strip() for text in replaced}
    hidden = sorted({*_hidden(data)} - known)
    if hidden:
        raise ConfigError(f"{place} hides the secrets of {', '.join(hidden)}; {NAME_IT}")


def _hidden(data: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the settings whose secrets were taken out."""
    if isinstance(data, str) and HIDDEN in data:
        yield name
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _hidden(value, f"{name}.{key}".removeprefix("."))
    elif isinstance(data, list):
        for value in data:
            yield from _hidden(value, name)
