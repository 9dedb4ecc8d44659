"""`curation fetch`: bring the models of a configuration to this machine, before a run without a network."""

from __future__ import annotations

import time

import click

from curation.cli.console import echo
from curation.cli.options import ConfigFile, config_options

_SAY_EVERY_S = 2.0


class _Progress:
    """Says now and then how much has come."""

    def __init__(self) -> None:
        self._num_bytes, self._said = 0, time.monotonic()

    def begin(self) -> None:
        self._num_bytes, self._said = 0, time.monotonic()

    def add(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if time.monotonic() - self._said > _SAY_EVERY_S:
            self._said = time.monotonic()
            echo(f"  {self._num_bytes / 1e6:.0f} MB", err=True)


@click.command()
@config_options
def fetch(config_file: ConfigFile) -> int:
    """Fetch all models and vocabularies of a configuration.

    Its run needs no network then. What is there already is not fetched again, and what broke off goes on from
    there.
    """
    from curation.errors.redaction import redact
    from curation.execution.record.run_record import read_run
    from curation.pipeline.fetching import fetch_models
    from curation.stage import ModelRef
    from curation.storage import open_storage

    config = config_file.load()
    recorded = read_run(open_storage(config.general.output)).get("models", [])
    progress = _Progress()

    def begin(places: str, ref: ModelRef) -> None:
        progress.begin()
        echo(f"{places}: {ref.role} {redact(ref.name)}", err=True)

    number = 0
    for model in fetch_models(config, recorded, on_begin=begin, on_fetch=progress.add):
        number += 1
        how = "was here" if model.was_there else "fetched"
        size = f"{model.num_bytes / 1e6:.1f} MB"
        echo(f"{', '.join(model.places)}: {model.role}: {model.name} at {model.revision[:12]}, {size}, {how}")
        echo(f"  {model.path}")
    echo(f"{number} models are on this machine" if number else "the configuration names no model")
    return 0
