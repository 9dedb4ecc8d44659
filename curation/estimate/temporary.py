"""An output for a pilot, which is gone with the command that made it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from curation.errors import EnvironmentFault
from curation.estimate import janitor


@contextmanager
def temporary_output(parent: str | None) -> Iterator[str]:
    """A new folder below `parent`, by default that for temporary files.

    A process of its own removes it should this one be killed.

    Raises:
        EnvironmentFault: it can't be made.
    """
    try:
        folder = tempfile.mkdtemp(prefix="curation-pilot-", dir=parent)
    except OSError as error:
        raise EnvironmentFault(
            f"{parent or tempfile.gettempdir()}: no folder for the pilot can be made: {error.strerror}"
        ) from error
    watcher = subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", janitor.__file__, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait(timeout=2 * janitor.ROUNDS * janitor.PAUSE_S)
