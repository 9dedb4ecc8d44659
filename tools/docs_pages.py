"""Pages of the documentation that are made from the code when mkdocs builds the site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic_core import PydanticUndefined

from curation.config.config import General, Prices, RunSettings
from curation.config.schema import field_descriptions
from curation.registry import SHARDS, STAGES, load
from curation.stage import Stage, StageConfig

CONFIGURATION = "reference/configuration.md"
INTRODUCTION = """# Configuration

A configuration is one YAML file. Every key that there is stands below, with its default; an unknown one is
refused, with the near one named. `curation init` writes a file with comments, `curation schema` prints the
JSON schema for editors, and `--set a.b=c` replaces a value on the command line. Where a file or a folder is
named, `~` is the home folder and `$NAME` an environment variable.

A key marked **threshold** decides about keeping alone: it can be changed without measuring anything again.
Every other key of a stage is part of what its numbers depend on, unless it says otherwise.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those that lie in docs/."""
    files.append(File.generated(config, CONFIGURATION, content="\n".join(configuration_page())))
    return files


def configuration_page() -> Iterator[str]:
    """Every setting of every section, in Markdown."""
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
    if kind.known_keys():
        yield "| key | default | |\n|---|---|---|"
    described = field_descriptions(kind)
    for key in kind.known_keys():
        field = kind.model_fields.get(key)
        default = "" if field is None or field.default is PydanticUndefined else _shown(field.default)
        mark = f"**threshold**: keeps where `{thresholds[key]}` it. " if key in thresholds else ""
        yield f"| `{prefix}{key}` | {default} | {mark}{_cell(described.get(key, ''))} |"
    yield ""
    for key in kind.known_keys():
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
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
