"""`curation compact` and `curation gc`: keep the ledger of an output small and fast to read."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from curation.cli.console import echo
from curation.cli.options import OUTPUT, OVERRIDES, ConfigFile, config_options, path_text
from curation.errors import ConfigError


@click.command()
@config_options
def compact(config_file: ConfigFile) -> int:
    """Merge the many small files of each stage into a few large.

    Those are read faster.
    """
    from curation.execution.run import compact as compact_ledger
    from curation.execution.run import open_pipeline

    config = config_file.load()
    with open_pipeline(config)[1].storage.exclusive():
        pipeline, ledger = open_pipeline(config)
        echo(f"{compact_ledger(pipeline, ledger)} files merged")
    return 0


@click.command()
@click.option(
    "--config",
    "-c",
    "paths",
    multiple=True,
    type=path_text,
    metavar="FILE",
    help="YAML configuration whose rows and shards stay; name every one that is still in use. With --damaged "
    "an --output alone will do.",
)
@OVERRIDES
@OUTPUT
@click.option("--damaged", is_flag=True, help="Remove damaged files instead; the next run makes them anew.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
def gc(
    paths: tuple[str, ...], overrides: tuple[str, ...], output: str | None, damaged: bool, yes: bool
) -> int:
    """Remove what no configuration given uses.

    That is: rows of stages, listings of containers, and shards.
    """
    from curation.config import load_config
    from curation.execution.run import open_pipeline
    from curation.ledger.unused import remove, unused_folders

    if damaged and not paths and output is not None:
        return _remove_damaged(path_text(output), yes=yes)
    if not paths:
        raise click.UsageError("name every configuration that is still in use by --config FILE")
    configs = [load_config(path, overrides, output=output) for path in paths]
    if damaged:
        _check_same(config.general.output for config in configs)
        return _remove_damaged(configs[0].general.output, yes=yes)
    storages = [open_pipeline(config)[1].storage for config in configs]
    _check_same(storage.root for storage in storages)
    if len({tuple(config.general.input) for config in configs}) > 1:
        # What is in the inputs is known of the last run alone, and rows of dataset-wide stages hang on it.
        raise ConfigError("these configurations read different inputs; give each an output of its own")
    storage = storages[0]
    with storage.exclusive():
        # Opened again, as a run may have ended meanwhile.
        folders = list(unused_folders(storage, [open_pipeline(config)[0] for config in configs]))
        for folder in folders:
            echo(f"{folder.num_bytes / 1e6:10.1f} MB  {folder.name}")
        if not folders:
            echo("nothing is unused")
            return 0
        num_bytes = sum(folder.num_bytes for folder in folders)
        echo(f"{num_bytes / 1e6:10.1f} MB  that {', '.join(paths)} do not use")
        if not may_remove(yes=yes):
            return 0
        for folder in folders:
            remove(storage, folder)
        echo("removed")
    return 0


def _check_same(outputs: Iterable[str]) -> None:
    roots = {*outputs}
    if len(roots) > 1:
        raise ConfigError(f"these configurations have different outputs: {', '.join(sorted(roots))}")


def may_remove(*, yes: bool) -> bool:
    """Whether something may be removed: as `--yes` or the person at the terminal says."""
    if yes or (sys.stdin.isatty() and click.confirm("Remove it?")):
        return True
    echo("nothing was removed; --yes removes it")
    return False


def _remove_damaged(output: str, *, yes: bool) -> int:
    """`gc --damaged`: exit code 1 where something damaged is left."""
    from curation.execution.damaged import find_damaged, is_output, remove_damaged
    from curation.execution.takedown.retraction import check_none_pending
    from curation.storage import open_storage

    storage = open_storage(output)
    if not is_output(storage):
        raise ConfigError(f"{storage.root} is no output of a run; `curation run` would make it one")
    with storage.exclusive():
        check_none_pending(storage)
        found = find_damaged(storage)
        for key, why in found.items():
            echo(f"{key}: {why}")
        if not found:
            echo("nothing is damaged")
            return 0
        if not may_remove(yes=yes):
            return 1
        for key in found:
            remove_damaged(storage, key)
        echo(f"removed {len(found)}; the next run makes anew what was in them")
    return 0
