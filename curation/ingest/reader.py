"""What every way of bringing media has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

from curation.errors import EnvironmentFault
from curation.records import Source
from curation.storage import Listed, Storage


@dataclass(frozen=True)
class Folder:
    """One of the configured inputs, listed.

    Attributes:
        root: As the configuration spells it, without a slash at its end.
        items: Every file below it that may be looked at, by key, sorted.
    """

    storage: Storage
    root: str
    items: Mapping[str, Listed]

    def path(self, key: str) -> str:
        """The path of a file below this folder."""
        return f"{self.root}/{key}"


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        sources: The media in it, in order.
        num_ignored: What else it holds; a file without media counts as one.
        used: Keys of other files that told something about the sources.
        error: Why it could not be listed, or not to its end.
        stands_alone: Whether all this follows from the file alone.
    """

    sources: tuple[Source, ...] = ()
    num_ignored: int = 0
    used: frozenset[str] = frozenset()
    error: str | None = None
    stands_alone: bool = True


class Reader(Protocol):
    """One way in which media come."""

    scheme: str
    """Of the URIs: "" for plain files."""

    def takes(self, key: str) -> bool:
        """Whether a file of this name is for this reader."""

    def list(self, folder: Folder, item: Listed) -> Contents:
        """The sources in a file, without looking at a pixel.

        Raises:
            StorageError: the file can't be reached.
        """

    def opened(self, source: Source) -> AbstractContextManager[Path]:
        """One of these sources as a file on this machine, while the context lasts.

        Raises:
            ProbeError: it is not there any more, or can't be read.
        """


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


def path_of_handle(handle: int) -> Path:
    """A path to an open file, whatever its name stands for by now."""
    return Path(f"/proc/self/fd/{handle}")
