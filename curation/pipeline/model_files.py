"""Files of models on this machine: what they are known by, and where those are kept that were fetched."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation.errors import ConfigError


def digest_of_model(path: Path) -> str:
    """sha256 of a file; of a folder, over names and digests of all files below it.

    Raises:
        ConfigError: it is neither.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise ConfigError(f"there is no file or folder {path}")
    total = hashlib.sha256()
    for file_path in sorted(item for item in path.rglob("*") if item.is_file()):
        name = file_path.relative_to(path).as_posix()
        total.update(f"{name}\0{digest_of_model(file_path)}\n".encode())
    return total.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for others of this machine who hold it, and hold it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cache_folder() -> Path:
    """The folder for what was fetched: `curation` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "curation"
