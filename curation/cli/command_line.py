"""The command line of the command that runs, for run.json."""

from __future__ import annotations

from collections.abc import Sequence

import click

from curation.errors.redaction import redact_command

_KEY = "curation.command_line"


def keep_command(context: click.Context, arguments: Sequence[str]) -> None:
    """Keep the arguments as they were typed."""
    context.meta[_KEY] = redact_command(["curation", *arguments])


def kept_command() -> str | None:
    """The command line without secrets; None where nobody typed one."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_KEY)
