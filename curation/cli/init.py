"""Commands that help to write a configuration: init and schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from curation.cli.console import echo
from curation.cli.options import target_path
from curation.errors import ConfigError

DEFAULT_RECIPE = "emu3"


class _ListsRecipes(click.Command):
    """Its help tells what each recipe is for."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from curation.config.recipes import recipes

        with formatter.section("Recipes"):
            formatter.write_dl(list(recipes().items()))


@click.command(cls=_ListsRecipes)
@click.option("--images", is_flag=True, help="For images; with neither this nor --videos, for both.")
@click.option("--videos", is_flag=True, help="For videos.")
@click.option(
    "--recipe", metavar="NAME", help=f"Which configuration to begin with; {DEFAULT_RECIPE} if none."
)
@click.option("--input", "inputs", multiple=True, metavar="FOLDER", help="A folder or URL to read.")
@click.option("--output", metavar="FOLDER", help="Folder or URL for ledger, shards and report.")
@click.option("--name", metavar="NAME", help="Of the dataset; by default the recipe's.")
@click.option("--to", "target", type=target_path, default="curation.yaml", show_default=True, metavar="FILE")
def init(
    images: bool,
    videos: bool,
    recipe: str | None,
    inputs: tuple[str, ...],
    output: str | None,
    name: str | None,
    target: Path,
) -> int:
    """Write a commented configuration.

    It is made from what is named here; in a terminal the rest is asked for.
    """
    from curation.config.recipes import new_settings, recipes
    from curation.registry import suggestion

    if target.exists():
        raise ConfigError(f"{target} is there already, and stays as it is; name another file by --to")
    known = recipes()
    recipe = recipe or _asked("Recipe", DEFAULT_RECIPE, [*known])
    if recipe not in known:
        raise ConfigError(f"there is no recipe {recipe!r}; {suggestion(recipe, known)}")
    if not inputs:
        inputs = (_asked("Folder or URL with the media", None),)
    output = output or _asked("Folder or URL for what is made of them", None)
    kinds = [kind for kind, wanted in (("images", images), ("videos", videos)) if wanted]
    settings: dict[str, Any] = {"input": list(inputs), "output": output}
    text = new_settings(recipe, kinds, **({"name": name} if name else {}), **settings)
    _write_new(target, text)
    echo(f"{target}: from the recipe {recipe}; look through it, then: curation run -c {target}")
    return 0


def _asked(question: str, default: str | None, choices: list[str] | None = None) -> str:
    """An answer; where nobody can be asked the default.

    Raises:
        UsageError: there is none.
    """
    if sys.stdin.isatty():
        kind = click.Choice(choices) if choices else None
        return str(click.prompt(question, default=default, type=kind, err=True))
    if default is None:
        raise click.UsageError("name --input and --output; only in a terminal they are asked for")
    return default


def _write_new(target: Path, text: str) -> None:
    """Write a configuration that the loader takes.

    Raises:
        ConfigError: it would not, or the file can't be made.
    """
    import yaml

    from curation.config import parse_config

    parse_config(yaml.safe_load(text), str(target))
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error


@click.command()
def schema() -> int:
    """Print the JSON schema of configurations.

    By it an editor completes and checks them. Stages of other packages that are installed are in it.
    """
    from curation.config.schema import configuration_schema

    click.echo(json.dumps(configuration_schema(), indent=1, ensure_ascii=False))
    return 0
