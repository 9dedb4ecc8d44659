"""Commands that ask what other settings would do, by what is measured already: sweep, compare, sample."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from curation.cli.console import echo
from curation.cli.options import ConfigFile, config_options, path_text
from curation.errors import ConfigError

if TYPE_CHECKING:
    from curation.pipeline import Pipeline
    from curation.whatif.sweep import Sweep

_SWEEP_SUFFIXES = (".csv", ".parquet", ".json", ".html", ".svg", ".png")


@click.command()
@click.argument("settings", nargs=-1, required=True, metavar="KEY=START:STOP:STEP...")
@config_options
@click.option(
    "--to",
    "targets",
    multiple=True,
    type=path_text,
    metavar="FILE",
    help="Table (.csv, .parquet, .json) or plot (.html, .svg, .png) to write; may be given again.",
)
def sweep(config_file: ConfigFile, settings: tuple[str, ...], targets: tuple[str, ...]) -> int:
    """Show the yield of each step at other thresholds, without measuring anything.

    KEY names a threshold, such as images.aesthetic.min_score=4:6:0.25, or with a list of values,
    images.aesthetic.min_score=null,5,5.5. Several thresholds give every combination.
    """
    from curation.cli.console import console
    from curation.execution.run import open_pipeline
    from curation.report.summary.funnel import untrained_notice
    from curation.whatif.axes import parse_axes
    from curation.whatif.sweep import sweep as sweep_points
    from curation.whatif.yields import print_sweep

    for target in targets:
        _check_suffix(target, _SWEEP_SUFFIXES)
    pipeline, ledger = open_pipeline(config_file.load())
    found = sweep_points(ledger, pipeline, parse_axes(settings, pipeline))
    notice = untrained_notice(pipeline)
    if notice:
        echo(notice)
    print_sweep(console(), pipeline, found)
    for target in targets:
        _write_sweep(pipeline, found, target)
        echo(target)
    return 0


def _write_sweep(pipeline: Pipeline, found: Sweep, target: str) -> None:
    from curation.report.tables.flatfile import format_of, write_table
    from curation.storage import storage_of
    from curation.whatif.plot import draw
    from curation.whatif.yields import flat_table, sweep_json

    suffix = _suffix(target)
    if suffix in (".csv", ".parquet"):
        table = flat_table(found)
        write_table(table.schema, [table], target, format_of(target))
        return
    storage, key = storage_of(target)
    data = sweep_json(pipeline, found).encode() if suffix == ".json" else draw(found, suffix)
    storage.write(key, data)


def _suffix(target: str) -> str:
    return PurePath(target).suffix.lower()


def _check_suffix(target: str, known: tuple[str, ...]) -> None:
    if _suffix(target) not in known:
        raise ConfigError(f"--to {target}: the name must end in {', '.join(known[:-1])} or {known[-1]}")
