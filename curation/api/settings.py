"""Settings as Python code gives them: a file, a mapping, or what an output was made with; and changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.config import Config, parse_config
from curation.config.settings_file import put_settings, read_settings
from curation.errors import ConfigError
from curation.execution.record.recorded import recorded_settings
from curation.storage.paths import as_written, expand_path

Location = str | Path
"""A folder, a file or a URL. In a text `~` and `$NAME` are replaced, as on the command line."""


def config_of(
    config: Location | Mapping[str, Any] | None,
    *,
    output: Location | None = None,
    input: Location | Sequence[Location] | None = None,
    changes: Mapping[str, Any] | None = None,
    to_measure: bool = False,
) -> Config:
    """The configuration, checked.

    Args:
        config: A YAML file, its settings, or None for those that `output` was made with.
        output: In place of the configuration's.
        input: In place of the configuration's.
        changes: Dotted name -> value, such as {"images.aesthetic.min_score": 5.2}; None drops a section.
        to_measure: Whether it is wanted for more than reading.

    Raises:
        ConfigError: with every problem, each under its dotted name.
        DamagedFileError: the run.json of `output` is damaged.
        StorageError: what lies in a bucket can't be reached.
    """
    fields: dict[str, Any] = {}
    if output is not None:
        fields["output"] = _text(output)
    if input is not None:
        places = [input] if isinstance(input, str | Path) else input
        fields["input"] = [_text(place) for place in places]
    if config is not None:
        name, data = _named_settings(config)
    elif output is None:
        raise ConfigError("name a configuration, or an output that has been made")
    else:
        replaced = [*(changes or ()), *fields]
        name, data = recorded_settings(_text(output), to_measure=to_measure, replaced=replaced)
    overrides = tuple(f"{key}={json.dumps(value)}" for key, value in (changes or {}).items())
    return replace(parse_config(put_settings(data, {**(changes or {}), **fields}), name), overrides=overrides)


def _named_settings(config: Location | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(config, Mapping):
        return "configuration", dict(config)
    try:
        path = expand_path(_text(config))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return path, read_settings(path)


def _text(place: Location) -> str:
    """A place as a configuration writes it."""
    return as_written(str(place)) if isinstance(place, Path) else place
