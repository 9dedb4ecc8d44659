"""An error that nobody foresaw is told in full, and has an exit code of its own."""

from __future__ import annotations

import errno
from collections.abc import Callable

import click
import pytest

from curation.cli.app import cli
from datasets_media import said_by

Said = pytest.CaptureFixture[str]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Adds a command, `broken`, that raises an error."""

    def add(error: Exception) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setitem(cli.commands, "broken", click.Command("broken", callback=fail))

    return add


def test_mistake_of_the_program_is_no_failed_sample(
    broken: Callable[[Exception], None], capsys: Said
) -> None:
    """70 is EX_SOFTWARE of sysexits.h; 1 would mean that too many samples failed."""
    broken(ZeroDivisionError("at https://me:secret@host/x"))
    code, said = said_by(capsys, "broken")
    assert code == 70
    assert "Traceback" in said
    assert "ZeroDivisionError: at https://***@host/x" in said
    assert said.endswith("this is a mistake of curation itself; what was measured is kept\n")


def test_machine_is_blamed_for_what_it_lacks(broken: Callable[[Exception], None], capsys: Said) -> None:
    broken(OSError(errno.ENOSPC, "No space left on device", "/out/x"))
    assert said_by(capsys, "broken") == (3, "StorageError: /out/x: No space left on device\n")
    broken(ModuleNotFoundError("No module named 'soxr'"))
    code, said = said_by(capsys, "broken")
    assert code == 3
    assert said.startswith("MissingDependencyError: ModuleNotFoundError: No module named 'soxr'")
