"""Writes docs/reference/configuration.md, which is made from the classes that check a configuration.

python tools/docs_pages.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from curation.config.config import General, Prices, RunSettings
from curation.config.schema import field_descriptions
from curation.registry import SHARDS, STAGES, load
from curation.stage import Stage, StageConfig

CONFIGURATION = Path(__file__).parents[1] / "docs/reference/configuration.md"
INTRODUCTION = """# Configuration

A configuration is one YAML file. Every key that there is stands below, with its default; an unknown one is
refused, with the near one named. `curation init` writes a file with comments, `curation schema` prints the
JSON schema for editors, and `--set a.b=c` replaces a value on the command line. Where a file or a folder is
named, `~` is the home folder and `$NAME` an environment variable.

A key marked **threshold** decides about keeping alone: it can be changed without measuring anything again.
Every other key of a stage is part of what its numbers depend on, unless it says otherwise.
"""


def configuration_page() -> str:
    """Every setting of every section, in Markdown."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_page())).rstrip() + "\n"


def _page() -> Iterator[str]:
    yield INTRODUCTION
    yield from _section("At the top", "What, from where, to where.", General)
    yield from _section("run", "How a run is carried out.", RunSettings)
    yield from _section("prices", "What computing costs, for the report and `curation plan`.", Prices)
    yield from _section("shards", "The training files.", load(SHARDS).Config)
    for name in STAGES.built_in:
        stage: type[Stage[Any]] = STAGES.load(name)
        kinds = " and ".join(sorted(f"{kind}s" for kind in stage.kinds))
        summary = (stage.__doc__ or "").strip().partition("\n")[0]
        thresholds = {key: f"{mark.column} {mark.sign}" for key, mark in stage.thresholds().items()}
        yield from _section(name, f"{summary} For {kinds}.", stage.Config, thresholds)
        yield from _columns(stage)


def _section(
    name: str, text: str, kind: type[StageConfig], thresholds: dict[str, str] | None = None
) -> Iterator[str]:
    yield f"\n## {name}\n\n{text}\n"
    yield from _settings(kind, "", thresholds or {})


def _settings(kind: type[StageConfig], prefix: str, thresholds: dict[str, str]) -> Iterator[str]:
    fields = [*kind.model_fields]
    keys = [key for key in fields if key in kind.known_keys()]
    keys += sorted(set(kind.known_keys()) - {*fields})
    if keys:
        yield "| key | default | |\n|---|---|---|"
    described = field_descriptions(kind)
    for key in keys:
        field = kind.model_fields.get(key)
        default = "" if field is None or field.default is PydanticUndefined else _shown(field.default)
        mark = f"**threshold**: keeps where `{thresholds[key]}` it. " if key in thresholds else ""
        yield f"| `{prefix}{key}` | {default} | {mark}{_cell(described.get(key, ''))} |"
    yield ""
    for key in keys:
        section = kind.section_class(key)
        if section is not None:
            yield f"\nBelow `{prefix}{key}`:\n"
            yield from _settings(section, f"{prefix}{key}.", {})


def _columns(stage: type[Stage[Any]]) -> Iterator[str]:
    """What the stage measures."""
    yield "\n| column | type | means |\n|---|---|---|"
    for name, column in stage.columns.items():
        yield f"| `{name}` | {column.type} | {_cell(column.meaning)} |"
    yield ""


def _shown(default: object) -> str:
    if default is None:
        return "`null`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, StageConfig):
        return ""
    return f"`{default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    CONFIGURATION.write_text(configuration_page())
