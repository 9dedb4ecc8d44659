"""The configurations that come along, and new ones made of them.

    text = new_settings("emu3", ["images"], input=["/data/raw"], output="curated")

A new one is the text of a recipe, with its comments, without the sections that are not wanted.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from curation.config.choices import SAMPLES
from curation.errors import ConfigError

SCHEMA = "schema.json"
"""The JSON schema of configurations, beside the recipes."""
_MODELINE = "# yaml-language-server:"
_TOP = re.compile(r"^([A-Za-z_]\w*):", re.MULTILINE)


def recipes_folder() -> Path:
    """The folder of the recipes, inside the installed package or, in a checkout, beside the code."""
    inside = Path(str(files("curation"))) / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def recipes() -> dict[str, str]:
    """Name of each recipe -> what it says of itself, on one line."""
    return {path.stem: _opening(path.read_text("utf-8")) for path in sorted(recipes_folder().glob("*.yaml"))}


def _opening(text: str) -> str:
    """The first sentence of the comment that a text begins with."""
    lines = [line for line in text.splitlines() if not line.startswith(_MODELINE)]
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[.:])\s(?=[A-Z])", " ".join(comment))[0]


def new_settings(recipe: str, kinds: Collection[str], **settings: Any) -> str:
    """The text of a configuration.

    Args:
        recipe: A name of `recipes`.
        kinds: Sections to keep of `images` and `videos`; none for those that the recipe has.
        settings: Top-level settings in place of the recipe's.

    Raises:
        ConfigError: the recipe has no such section.
    """
    head, blocks = _blocks((recipes_folder() / f"{recipe}.yaml").read_text("utf-8"))
    for kind in kinds:
        if kind not in blocks:
            raise ConfigError(f"the recipe {recipe} has no {kind}; take another by --recipe")
    unwanted = [kind for kind in SAMPLES if kinds and kind not in kinds]
    kept = {key: text for key, text in blocks.items() if key not in unwanted}
    for key, value in settings.items():
        kept[key] = _replaced(kept.get(key, ""), key, value)
    return _without_modeline(head) + "".join(kept.values())


def _blocks(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first setting, and the text of each top-level one with its comments."""
    starts = [found.start() for found in _TOP.finditer(text)]
    ends = [*starts[1:], len(text)]
    parts = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    return text[: starts[0]], {part.partition(":")[0]: part for part in parts}


def _replaced(block: str, key: str, value: Any) -> str:
    """A block of one line with another value; the blank lines after it stay."""
    gap = block[len(block.rstrip("\n")) :] or "\n"
    written = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return f"{key}: {written.removesuffix('...' + chr(10)).strip()}{gap}"


def _without_modeline(head: str) -> str:
    """The schema lies beside the recipes, and not beside what is made of them."""
    return "".join(line for line in head.splitlines(keepends=True) if not line.startswith(_MODELINE))
