"""Collects what is wrong with a configuration, each problem under its dotted name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from curation.errors import ConfigError
from curation.registry import suggestion
from curation.stage import StageConfig


class Problems:
    """What is wrong, so that all of it can be said at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note a problem of the setting at `where`."""
        self.found.append(f"{where}: {what}")

    def unknown(self, where: str, key: str, known: Iterable[str]) -> None:
        """Note that there is no setting `key` at `where`, and which one was probably meant."""
        self.add(dotted(where, key), f"unknown; {suggestion(key, sorted(known))}")

    def check(self, model: type[StageConfig], where: str, data: Any) -> Any:
        """`data` as `model`, or None after noting every problem."""
        if data is None:
            data = {}
        if not isinstance(data, Mapping):
            self.add(where or "file", f"must be a mapping of settings, not {type(data).__name__}")
            return None
        try:
            return model.model_validate(dict(data))
        except ValidationError as error:
            for item in error.errors():
                self._add_item(model, where, item)
            return None

    def _add_item(self, model: type[StageConfig], where: str, item: Mapping[str, Any]) -> None:
        *path, last = [str(part) for part in item["loc"] if not _is_union_tag(part)] or [""]
        if item["type"] == "extra_forbidden":
            self.unknown(".".join(filter(None, [where, *path])), last, _model_at(model, path).known_keys())
            return
        message = item["msg"][0].lower() + item["msg"][1:]
        if item["type"] == "missing":
            message = "is required"
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
        else:
            message += f", not {item['input']!r}"
        self.add(".".join(filter(None, [where, *path, last])), message)


def checked(model: type[StageConfig], where: str, data: Mapping[str, Any]) -> Any:
    """`data` as `model`.

    Raises:
        ConfigError: with every problem, each under its dotted name.
    """
    problems = Problems()
    found = problems.check(model, where, data)
    if problems.found:
        raise ConfigError("; ".join(problems.found))
    return found


def dotted(where: str, key: str) -> str:
    """The name of a setting: "images.text" and "fps" give "images.text.fps"."""
    return f"{where}.{key}" if where else key


def _model_at(model: type[StageConfig], path: Sequence[str]) -> type[StageConfig]:
    """The model of the settings at a path inside of others."""
    for name in path:
        model = model.section_class(name) or model
    return model


def _is_union_tag(part: object) -> bool:
    """Pydantic puts the tried type of a union into the location, such as "constrained-float"."""
    return isinstance(part, str) and part.startswith(("constrained-", "function-", "list["))
