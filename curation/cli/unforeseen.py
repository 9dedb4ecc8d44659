"""Errors that nobody foresaw: told in full, with an exit code of their own."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Self

from curation.cli.console import echo
from curation.errors.isolation import machine_fault
from curation.errors.redaction import redact

UNFORESEEN = 70
"""Exit code of an error that is a mistake of this program: `EX_SOFTWARE` of sysexits.h."""


class UnforeseenErrors:
    """Ends what is done inside of it when an error that is none of ours comes out, and tells of it.

    One that this machine is to blame for, such as a full disk, is told in a sentence.

    Attributes:
        exit_code: None as long as there was no such error.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        fault = machine_fault(error)
        if fault is not None:
            echo(f"{type(fault).__name__}: {fault}", err=True)
            self.exit_code = fault.exit_code
            return True
        echo(redact("".join(traceback.format_exception(error)).rstrip()), err=True)
        echo("this is a mistake of curation itself; what was measured is kept", err=True)
        self.exit_code = UNFORESEEN
        return True
