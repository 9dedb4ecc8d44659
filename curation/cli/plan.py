"""The command that tells what a run would do, and what it would take: plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from curation.cli.console import echo
from curation.cli.options import LIMIT, RETRY_FAILED, ConfigFile, config_options, target_path
from curation.cli.stopping import StopSignals
from curation.errors import ConfigError


@click.command()
@config_options
@LIMIT
@RETRY_FAILED
@click.option(
    "--pilot",
    "number",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run N sources, drawn at random, in a temporary output on this machine, and estimate by them.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, metavar="N", help="Of the draw; another draws others."
)
@click.option(
    "--to",
    "target",
    type=target_path,
    metavar="FILE",
    help="Write it as JSON, too: a file that ends in .json.",
)
def plan(
    config_file: ConfigFile,
    limit: int | None,
    retry_failed: bool,
    number: int | None,
    seed: int,
    target: Path | None,
) -> int:
    """Tell what a run would do, and measure nothing.

    With --pilot, which measures some sources, what it would take, too. The output is neither written to nor
    held, so that this can be asked while a run goes on.
    """
    from curation.cli.console import console
    from curation.estimate.outlook import look_ahead
    from curation.estimate.pilot import check_pilot
    from curation.estimate.tables import outlook_record, print_outlook
    from curation.ledger.unit_state import PROBE, RecomputePolicy

    if target is not None and target.suffix != ".json":
        raise ConfigError(f"--to takes a file that ends in .json, not {target}")
    config = config_file.load()
    if number is not None:
        check_pilot(config)
    stages = frozenset([PROBE, *(choice.stage.name for choice in config.choices())])
    recompute = RecomputePolicy(stages) if retry_failed else RecomputePolicy()
    outlook = look_ahead(config, limit=limit, recompute=recompute, names_done=number is not None)
    print_outlook(console(), outlook, before_pilot=number is not None)
    record: dict[str, Any] = {"plan": outlook_record(outlook)}
    if number is not None:
        record["forecast"] = _forecast(config, outlook, number, seed, limit)
    if target is not None:
        _write(target, json.dumps(record, indent=2) + "\n")
        echo(str(target))
    return 0


def _forecast(config: Any, outlook: Any, number: int, seed: int, limit: int | None) -> dict[str, Any]:
    """Run the pilot, print the forecast, and give it for JSON."""
    from curation.cli.console import console
    from curation.estimate.forecast import forecast_of
    from curation.estimate.pilot import run_pilot
    from curation.estimate.tables import forecast_record, print_forecast
    from curation.execution.progress import ConsoleProgress

    stop = click.get_current_context().find_object(StopSignals)
    if stop is not None:
        stop.say_by(2, lambda _: "\nstopped; nothing of the pilot is kept\n")
    progress = ConsoleProgress(console())
    try:
        with run_pilot(config, outlook, number=number, seed=seed, limit=limit, progress=progress) as pilot:
            forecast = forecast_of(pilot)
    finally:
        progress.end()
    print_forecast(console(), forecast)
    return forecast_record(forecast) | {"seed": seed}


def _write(target: Path, text: str) -> None:
    """Write a file.

    Raises:
        ConfigError: it can't be written.
    """
    try:
        target.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error
