"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from curation.errors import ConfigError, CurationError
from curation.errors.redaction import redact
from curation.storage.paths import expand_path

if TYPE_CHECKING:
    from curation.config import Config

NOTHING_NAMED = "name a configuration by --config FILE, or an output that has been made by --output FOLDER"
F = TypeVar("F", bound=Callable[..., Any])


def some_text(text: str) -> str:
    """Type of an option that names something, whatever that is."""
    if not text.strip():
        raise click.BadParameter("an empty name; a variable of the shell may not be set")
    return text


def path_text(text: str) -> str:
    """Type of an option that names a file, a folder or a URL: as curation/storage/paths.py reads it."""
    try:
        return expand_path(some_text(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def expanded_path(text: str) -> Path:
    """Type of an option that names a file or a folder of this machine, and nothing else."""
    path = path_text(text)
    if "://" in path:
        raise click.BadParameter(f"{redact(path)}: this must be on this machine, not behind a URL")
    return Path(path)


def target_text(text: str) -> str:
    """Type of an option that names what is written: as `path_text`, and in a job not what Ray removes."""
    from curation.execution.cluster.joining.jobs import check_output_lasts

    path = path_text(text)
    try:
        check_output_lasts(path)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error
    return path


def target_path(text: str) -> Path:
    """The same of a file or a folder of this machine, and nothing else."""
    return expanded_path(target_text(text))


CONFIG = click.option(
    "--config",
    "-c",
    "path",
    type=path_text,
    metavar="FILE",
    help="YAML configuration; by default the one that the output was made with.",
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
    "--input",
    "inputs",
    multiple=True,
    type=some_text,
    metavar="FOLDER",
    help="Read these folders or URLs instead.",
)
OUTPUT = click.option(
    "--output",
    type=some_text,
    metavar="FOLDER",
    help="The output, a folder or a URL: in place of the one that --config names, or one that was made.",
)
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
SHARDS_OUTPUT = click.option(
    "--output", type=some_text, metavar="FOLDER", help="With --config: its output is there instead."
)


@dataclass(frozen=True)
class ConfigFile:
    """A configuration as the command line names it: a file, and settings that replace its own.

    Without a file it is the one that the output was made with.
    """

    path: str | None
    overrides: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    output: str | None = None

    def load(self, *, to_measure: bool = False) -> Config:
        """The configuration, checked.

        Args:
            to_measure: Whether it is wanted for more than reading what is there.

        Raises:
            ConfigError: with every problem, each under its dotted name.
            DamagedFileError: the output's run.json is damaged, and no file was named.
            StorageError: the output can't be reached, and no file was named.
        """
        inputs = list(self.inputs) or None
        if self.path is not None:
            from curation.config import load_config

            return load_config(self.path, self.overrides, input=inputs, output=self.output)
        if self.output is None:
            raise click.UsageError(NOTHING_NAMED)
        from curation.execution.record.recorded import recorded_config

        return recorded_config(self.output, self.overrides, to_measure=to_measure, input=inputs)


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
