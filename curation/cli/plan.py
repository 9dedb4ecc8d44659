"""The command that tells what a run would do, and measures nothing: plan."""

from __future__ import annotations

import json
from pathlib import Path

import click

from curation.cli.console import echo
from curation.cli.options import LIMIT, RETRY_FAILED, ConfigFile, config_options, expanded_path
from curation.errors import ConfigError


@click.command()
@config_options
@LIMIT
@RETRY_FAILED
@click.option(
    "--to",
    "target",
    type=expanded_path,
    metavar="FILE",
    help="Write it as JSON, too: a file that ends in .json.",
)
def plan(config_file: ConfigFile, limit: int | None, retry_failed: bool, target: Path | None) -> int:
    """Tell what a run would do, and measure nothing."""
    from curation.cli.console import console
    from curation.estimate.outlook import look_ahead
    from curation.estimate.tables import outlook_record, print_outlook
    from curation.ledger.unit_state import PROBE, RecomputePolicy

    if target is not None and target.suffix != ".json":
        raise ConfigError(f"--to takes a file that ends in .json, not {target}")
    config = config_file.load()
    stages = frozenset([PROBE, *(choice.stage.name for choice in config.choices())])
    recompute = RecomputePolicy(stages) if retry_failed else RecomputePolicy()
    outlook = look_ahead(config, limit=limit, recompute=recompute)
    print_outlook(console(), outlook)
    if target is not None:
        target.write_text(json.dumps({"plan": outlook_record(outlook)}, indent=2) + "\n")
        echo(str(target))
    return 0
