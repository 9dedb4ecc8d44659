"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from curation.errors import CurationError
from curation.errors.redaction import redact
from curation.storage.paths import expand_path

if TYPE_CHECKING:
    from curation.config import Config

F = TypeVar("F", bound=Callable[..., Any])


def path_text(text: str) -> str:
    """Type of an option that names a file, a folder or a URL: as curation/storage/paths.py reads it."""
    try:
        return expand_path(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def expanded_path(text: str) -> Path:
    """Type of an option that names a file or a folder of this machine, and nothing else."""
    path = path_text(text)
    if "://" in path:
        raise click.BadParameter(f"{redact(path)}: this must be on this machine, not behind a URL")
    return Path(path)


CONFIG = click.option(
    "--config", "-c", "path", required=True, type=path_text, metavar="FILE", help="YAML configuration."
)
OVERRIDES = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, such as images.aesthetic.min_score=5.2; null drops a section.",
)
# --input and --output are settings: the configuration expands them.
INPUTS = click.option(
    "--input", "inputs", multiple=True, metavar="FOLDER", help="Read these folders or URLs instead."
)
OUTPUT = click.option("--output", metavar="FOLDER", help="The output is there instead: a folder or a URL.")
ADDRESS = click.option(
    "--address", metavar="HOST:PORT", help="Head of a Ray cluster; by default Ray is started on this machine."
)
LIMIT = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take up at most N sources.")
RETRY_FAILED = click.option("--retry-failed", is_flag=True, help="Try again what failed.")
ACCEPT_NEW_MODELS = click.option(
    "--accept-new-models", is_flag=True, help="Measure anew with models that changed under their name."
)
LOG_FORMAT = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: an object per line, for machines.",
)
WORKER_LOGS = click.option("--worker-logs", is_flag=True, help="Show what workers print, too.")
SHARDS = click.argument("folder", required=False, type=path_text)
SHARDS_CONFIG = click.option(
    "--config",
    "-c",
    "path",
    type=path_text,
    metavar="FILE",
    help="Take the shards of this configuration.",
)
SHARDS_OUTPUT = click.option("--output", metavar="FOLDER", help="With --config: its output is there instead.")


@dataclass(frozen=True)
class ConfigFile:
    """A configuration as the command line names it: a file, and settings that replace its own."""

    path: str
    overrides: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    output: str | None = None

    def load(self) -> Config:
        """The configuration, checked.

        Raises:
            ConfigError: with every problem, each under its dotted name.
        """
        from curation.config import load_config

        return load_config(self.path, self.overrides, input=list(self.inputs) or None, output=self.output)


def config_options(command: Callable[..., int]) -> Callable[..., int]:
    """Gives the command a `ConfigFile`, as its first argument."""

    @functools.wraps(command)
    def with_file(
        path: str, overrides: tuple[str, ...], inputs: tuple[str, ...], output: str | None, **rest: Any
    ) -> int:
        return command(ConfigFile(path, overrides, inputs, output), **rest)

    return _with(with_file, CONFIG, OVERRIDES, INPUTS, OUTPUT)


def work_options(command: Callable[..., int]) -> Callable[..., int]:
    """How a command that measures goes about it; gives it a `RunLog`, which tells of errors too."""

    @functools.wraps(command)
    def with_log(*args: Any, log_format: str, **rest: Any) -> int:
        from curation.cli.log import run_log

        log = run_log(log_format)
        try:
            return command(*args, log=log, **rest)
        except CurationError as error:
            return log.fail(error)

    return _with(with_log, ADDRESS, LIMIT, RETRY_FAILED, ACCEPT_NEW_MODELS, LOG_FORMAT, WORKER_LOGS)


def shards_options(command: F) -> F:
    """Shards, by their folder or by the configuration of their run."""
    return _with(command, SHARDS, SHARDS_CONFIG, SHARDS_OUTPUT)


def _with(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command
