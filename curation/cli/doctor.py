"""`curation doctor`: whether this machine can do what a configuration asks."""

from __future__ import annotations

from collections import Counter
from functools import partial

import click

from curation.cli.console import echo
from curation.cli.options import INPUTS, OUTPUT, OVERRIDES, ConfigFile, path_text
from curation.errors import EnvironmentFault
from curation.errors.redaction import redact


@click.command()
@click.option(
    "--config", "-c", "path", type=path_text, metavar="FILE", help="Also check what this configuration needs."
)
@OVERRIDES
@INPUTS
@OUTPUT
@click.option("--address", metavar="HOST:PORT", help="Ask this Ray cluster instead of starting Ray.")
def doctor(
    path: str | None,
    overrides: tuple[str, ...],
    inputs: tuple[str, ...],
    output: str | None,
    address: str | None,
) -> int:
    """Check this machine, and measure media of known numbers.

    Checked are Python, packages, Ray, GPU, decoders, disk and clock. With a configuration also its models,
    inputs and output. A line for each: ok, warning, or failed with what to do. Nothing is left behind.
    """
    if path is None and (overrides or inputs or output):
        raise click.UsageError("--set, --input and --output need --config")
    from curation.doctor import decoders, golden, machine, places
    from curation.doctor.finding import Check, findings

    config = ConfigFile(path, overrides, inputs, output).load() if path else None
    checks: list[tuple[str, Check]] = [
        ("python", machine.check_python),
        ("packages", machine.check_packages),
        ("ray", partial(machine.check_ray, address)),
        ("gpu", machine.check_gpu),
        ("disk", partial(machine.check_disk, config)),
        ("clock", partial(places.check_clock, config)),
        ("decoders", decoders.check_decoders),
        ("self-test", partial(golden.check_golden, config)),
    ]
    if config is not None:
        checks += [
            ("models", partial(places.check_models, config)),
            ("input", partial(places.check_inputs, config)),
            ("output", partial(places.check_output_place, config)),
        ]
    states: Counter[str] = Counter()
    for finding in findings(checks):
        states[finding.state] += 1
        echo(redact(finding.line))
    echo(f"{states['ok']} ok, {states['warning']} warnings, {states['failed']} failed")
    return EnvironmentFault.exit_code if states["failed"] else 0
