"""The command `curation`, and what each of its exit codes means. The other modules here hold the commands.

Importing any of them imports nothing heavy: a command does so when it runs.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from curation.cli.command_line import keep_command
from curation.cli.console import accept_any_text, echo
from curation.cli.doctor import doctor
from curation.cli.fetch import fetch
from curation.cli.init import init, schema
from curation.cli.label import label
from curation.cli.ledger import compact, gc
from curation.cli.look import explain, preview, report, status, table
from curation.cli.plan import plan
from curation.cli.run import demo, run, stage
from curation.cli.shards import export, preference, publish, verify
from curation.cli.stopping import StopSignals
from curation.cli.takedown import retract
from curation.cli.unforeseen import UnforeseenErrors
from curation.cli.whatif import compare, sample, sweep
from curation.errors import CurationError
from curation.errors.redaction import redact
from curation.storage.retries import FIRST_CONTACT
from curation.version import __version__

NO_ANSWER = 130
"""A question was answered by the end of the input."""


class _Group(click.Group):
    """Suggests a command for a misspelt one, and keeps what was typed for run.json."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after keeping the arguments."""
        keep_command(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; of a stop, `StopSignals` tells, and click writes no empty line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise click.exceptions.Exit(NO_ANSWER) from stopped

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command, or the one that was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"{error.message}{hint}", ctx) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Turn raw images and videos into captioned, filtered, pre-tokenized training shards.

    Every measurement is kept in a ledger under the output folder: the same command goes on where it was
    stopped, and a moved threshold measures nothing again.
    """


for command in (
    run,
    stage,
    plan,
    status,
    report,
    table,
    explain,
    sweep,
    compare,
    sample,
    verify,
    publish,
    preference,
    export,
    preview,
    demo,
    doctor,
    init,
    schema,
    label,
    compact,
    gc,
    retract,
    fetch,
):
    cli.add_command(command)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code.

    0 all went well, 1 too many failures, 2 usage, 3 environment, 70 a mistake of this program, 130 stopped by
    Ctrl-C, 143 by SIGTERM.
    """
    accept_any_text()
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # or a call that comes late joins a stranger's Ray
    code = 0
    with StopSignals() as stop, UnforeseenErrors() as unforeseen, FIRST_CONTACT.limited():
        code = _run_command(args, stop)
    sys.exit(stop.exit_code or unforeseen.exit_code or code)


def _run_command(args: Sequence[str] | None, stop: StopSignals) -> int:
    try:
        code = cli.main(args=args, prog_name="curation", standalone_mode=False, obj=stop)
    except click.exceptions.Exit as finished:
        code = finished.exit_code
    except click.Abort:
        code = NO_ANSWER
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        echo(redact(said.getvalue().rstrip()), err=True)
        code = error.exit_code
    except CurationError as error:
        echo(f"{type(error).__name__}: {error}", err=True)
        code = error.exit_code
    return code or 0
