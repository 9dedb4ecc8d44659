"""What media are read from."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from curation.storage.digest import HashedFile

MediaFile = Path | IO[bytes] | HashedFile
"""A path; or a file that is read in ranges, where fetching all of it would be too much."""


def size_of(file: MediaFile) -> int:
    """Bytes.

    Raises:
        OSError: it can't be reached.
    """
    return file.stat().st_size if isinstance(file, Path) else file.seek(0, io.SEEK_END)


def reading(file: MediaFile) -> AbstractContextManager[IO[bytes]]:
    """The file from its beginning, to be read here and now."""
    return file.open("rb") if isinstance(file, Path) else nullcontext(rewound(file))


def rewound(file: MediaFile) -> Any:
    """What a library opens: a path as text, or a file that stands at its beginning."""
    if isinstance(file, Path):
        return str(file)
    file.seek(0)
    return file
