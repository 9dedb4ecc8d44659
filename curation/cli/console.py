"""What is shown to people. Names, captions and errors come from data: they are shown as they are, and nothing
in them is read as markup, as an emoji or as a command to the terminal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from curation.errors.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_OF_FILES = 200


def echo(text: str, *, err: bool = False) -> None:
    """Print one message."""
    click.echo(visible(text), err=err)


def console() -> Console:
    """Standard output; where that is no terminal, wide enough that no table is folded.

    Styles are given beside a text, by `style=`, never inside of it.
    """
    from rich.console import Console

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(visible(text), **options)

    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    return PlainConsole(soft_wrap=True, width=width, markup=False, emoji=False, highlight=False)


def accept_any_text() -> None:
    """Let standard output and error take what their encoding lacks, such as a name that is no UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
