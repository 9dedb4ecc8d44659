"""Files for what is fetched of the inputs: without names, so that nothing is left of them by a kill.

with unnamed_file() as (file, path):
    write_temporary(file, data)
    decode(path)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

from curation.errors import EnvironmentFault
from curation.storage.local import named_errors


@contextmanager
def unnamed_file() -> Iterator[tuple[IO[bytes], Path]]:
    """A file to write to, and a path to read it by. It is gone with this process, however that ends.

    Raises:
        EnvironmentFault: the folder for temporary files takes none.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(TemporaryFile(prefix="curation-"))
        except OSError as error:
            raise EnvironmentFault(f"no temporary file can be made: {error}") from error
        yield file, path_of_handle(file.fileno())


def write_temporary(file: IO[bytes], data: bytes) -> None:
    """Write to an unnamed file.

    Raises:
        StorageError: the folder for temporary files, which is named, has no room.
    """
    left = memoryview(data)
    with named_errors(gettempdir()):
        while left:  # not by the file's buffer, which would be written again when it is closed
            left = left[os.write(file.fileno(), left) :]


def path_of_handle(handle: int) -> Path:
    """A path to an open file, whatever its name stands for by now."""
    return Path(f"/proc/self/fd/{handle}")
