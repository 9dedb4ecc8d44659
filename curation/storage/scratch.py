"""Files for what is fetched of the inputs: without names, so that nothing is left of them by a kill.

    use_scratch("/mnt/nvme", 2**32)             # once, in a process that works on the sources of a run
    with unnamed_file() as (file, path):
        write_temporary(file, data)
        decode(path)

The folder is for small files, too; the limit is for objects that are fetched as a whole, and for copies that
stay for later.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

from curation.errors import EnvironmentFault
from curation.storage.local import named_errors

DEFAULT_BYTES = 2**32
_COPY_BYTES = 1 << 23


class Scratch:
    """A folder for files without names, and the room that this process may take there."""

    def __init__(self, folder: str | None = None, max_bytes: int = DEFAULT_BYTES) -> None:
        """`folder`: None is the system's for temporary files."""
        self._folder = folder
        self.max_bytes = max_bytes
        self._taken = 0
        self._lock = threading.Lock()
        self._spare: deque[tuple[int, Callable[[], None]]] = deque()
        self._round = 0

    @property
    def folder(self) -> str:
        """Where the files are, as long as they are open."""
        return self._folder or gettempdir()

    def take(self, num_bytes: int) -> bool:
        """Take room, if there is so much. What is there to spare makes room, the oldest first."""
        if num_bytes > self.max_bytes:
            return False
        while not (fits := self._take(num_bytes)) and self._spare:
            self._let_go()
        return fits

    def _take(self, num_bytes: int) -> bool:
        with self._lock:
            fits = self._taken + num_bytes <= self.max_bytes
            self._taken += num_bytes if fits else 0
            return fits

    def give_back(self, num_bytes: int) -> None:
        """Give back room that was taken."""
        with self._lock:
            self._taken -= num_bytes

    def spare(self, close: Callable[[], None]) -> None:
        """Keep a file until its room is needed. `close` gives that back; it is called where room is taken."""
        self._spare.append((self._round, close))

    def next_round(self) -> None:
        """Let go of what was there to spare before the last round began."""
        self._round += 1
        while self._spare and self._spare[0][0] < self._round - 1:
            self._let_go()

    def close(self) -> None:
        """Let go of all that is there to spare."""
        while self._spare:
            self._let_go()

    def _let_go(self) -> None:
        _, close = self._spare.popleft()
        close()


_SCRATCH = [Scratch()]


def use_scratch(folder: str | None, max_bytes: int) -> None:
    """Fetch into this folder from now on, and no more than so much at a time."""
    _SCRATCH[0].close()
    _SCRATCH[0] = Scratch(folder, max_bytes)


def scratch() -> Scratch:
    """What this process uses."""
    return _SCRATCH[0]


@contextmanager
def unnamed_file() -> Iterator[tuple[IO[bytes], Path]]:
    """A file to write to, and a path to read it by. It is gone with this process, however that ends.

    Raises:
        EnvironmentFault: the scratch folder takes none.
    """
    folder = scratch().folder
    with ExitStack() as stack:
        try:
            file = stack.enter_context(TemporaryFile(prefix="curation-", dir=folder))
        except OSError as error:
            raise EnvironmentFault(f"{folder}: no temporary file can be made: {error.strerror}") from error
        yield file, path_of_handle(file.fileno())


def write_temporary(file: IO[bytes], data: bytes) -> None:
    """Write to an unnamed file.

    Raises:
        StorageError: the scratch folder, which is named, has no room.
    """
    left = memoryview(data)
    with named_errors(scratch().folder):
        while left:  # not by the file's buffer, which would be written again when it is closed
            left = left[os.write(file.fileno(), left) :]


def path_of_handle(handle: int) -> Path:
    """A path to an open file, whatever its name stands for by now."""
    return Path(f"/proc/self/fd/{handle}")


def handle_of_path(path: Path) -> int:
    """The handle that `path_of_handle` made a path of."""
    return int(path.name)


@contextmanager
def copied(file: IO[bytes]) -> Iterator[Path]:
    """A copy of what is left to read of a file, as a file of this machine while the context lasts.

    Raises:
        EnvironmentFault: the folder for temporary files takes none.
        StorageError: it has no room, or the original can't be read.
    """
    with unnamed_file() as (copy, path):
        while data := file.read(_COPY_BYTES):
            write_temporary(copy, data)
        yield path
