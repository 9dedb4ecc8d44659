"""A long video that a worker has fetched, for the workers of its machine that look at its segments.

    copy = copy_of(path, node_id)           # in the worker that holds the file
    with copy.opened(node_id) as path:      # in any other; None where there is no such file any more
        ...

The file has no name, so nothing is left of it by a kill: others open it by the handle of who holds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from curation.storage.digest import Stamp, stamp_of
from curation.storage.scratch import handle_of_path, path_of_handle


@dataclass(frozen=True, slots=True)
class Copy:
    """A file that a process holds open.

    Attributes:
        node_id: The node on which it runs, as Ray names it.
        pid: Its id there.
        handle: The file's handle in it.
        stamp: Tells the file from another one under this handle.
    """

    node_id: str
    pid: int
    handle: int
    stamp: Stamp

    @contextmanager
    def opened(self, node_id: str) -> Iterator[Path | None]:
        """The file, for a process of that node; None if it runs elsewhere, or the file is gone."""
        handle = self._open() if node_id == self.node_id else None
        if handle is None:
            yield None
            return
        try:
            path = path_of_handle(handle)
            yield path if stamp_of(path) == self.stamp else None
        finally:
            os.close(handle)

    def _open(self) -> int | None:
        """A handle of this process; None if the file is gone. Nothing else that may be there is opened."""
        theirs = Path(f"/proc/{self.pid}/fd/{self.handle}")
        try:
            return os.open(theirs, os.O_RDONLY | os.O_NONBLOCK) if stamp_of(theirs) == self.stamp else None
        except OSError:
            return None


def copy_of(path: Path, node_id: str) -> Copy:
    """How others get at a file that this process holds open; `path` is that of its handle."""
    return Copy(node_id, os.getpid(), handle_of_path(path), stamp_of(path))
