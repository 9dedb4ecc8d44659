"""What lies below folders: every file once, whichever ways lead to it, and what is no file.

Folders that belong to an input come first, then links: a linked folder is read like any other, under
the name of the link. A folder that is reached a second time (a loop, `./in` beside `in`, an input inside
another one) is not read again. A link to a file that lies in an input itself is a second name of that
file; a link to any other file is a file.

Several folders are read at a time: most of that is waiting for the file system.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from curation.storage import open_storage
from curation.storage.local import etag_of, named_errors
from curation.storage.surveys.records import FILES, READ_AS_FOLDER, Survey, by_key

DANGLING = "dangling"
"""The etag of a link to a file that is not there."""
_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_NUM_THREADS = 8
_NUM_FOLDERS = 64
"""Folders that are read at the same time at most: what they hold waits to be noted."""
_NUM_ROWS = 1 << 16
"""Files that are held one by one before they become a batch."""


def describe_mode(mode: int) -> str | None:
    """What a thing of this `st_mode` is, where it is no file: never open it, a FIFO would wait for ever."""
    return _SPECIAL.get(stat.S_IFMT(mode))


def survey_folders(roots: Sequence[str], takes: Callable[[str], bool]) -> list[Survey]:
    """One survey per folder, in their order. `takes` says whether a file of this name is one to read.

    Raises:
        StorageError: a folder can't be read.
    """
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        walk = _FolderWalk(roots, takes, threads)
        # The outer of two roots comes first, so that the inner one is found in it as a whole.
        for number in sorted(range(len(roots)), key=lambda number: walk.real_roots[number].count("/")):
            walk.read_root(number)
        walk.follow_links()
    return walk.surveys()


@dataclass(frozen=True, slots=True)
class _FolderEntry:
    """Something below a root: number of the root, key, the path that leads to it, and its real path."""

    root: int
    key: str
    path: str
    real: str

    def below(self, name: str) -> _FolderEntry:
        """An entry of this folder that is no link."""
        key = f"{self.key}/{name}" if self.key else name
        return _FolderEntry(self.root, key, f"{self.path}/{name}", f"{self.real.rstrip('/')}/{name}")


@dataclass
class _Files:
    """Files of a root that were met, as columns."""

    keys: list[str] = field(default_factory=list)
    sizes_bytes: list[int] = field(default_factory=list)
    etags: list[str] = field(default_factory=list)
    batches: list[pa.RecordBatch] = field(default_factory=list)

    def add(self, key: str, size_bytes: int, etag: str) -> None:
        """Note a file."""
        self.keys.append(key)
        self.sizes_bytes.append(size_bytes)
        self.etags.append(etag)

    def extend(self, others: _Files) -> None:
        """Note the files of a folder."""
        self.keys += others.keys
        self.sizes_bytes += others.sizes_bytes
        self.etags += others.etags
        if len(self.keys) >= _NUM_ROWS:
            self._close_batch()

    def table(self) -> pa.Table:
        """All files, sorted by key."""
        self._close_batch()
        return by_key(pa.Table.from_batches(self.batches, FILES))

    def _close_batch(self) -> None:
        columns = [_bytes_of(self.keys), pa.array(self.sizes_bytes, pa.int64()), pa.array(self.etags)]
        arrays = [column.cast(kind) for column, kind in zip(columns, FILES.types, strict=True)]
        self.batches.append(pa.record_batch(arrays, schema=FILES))
        self.keys, self.sizes_bytes, self.etags = [], [], []


def _bytes_of(names: list[str]) -> pa.Array:
    """Names as the file system has them."""
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError:
        return pa.array(map(os.fsencode, names), pa.binary())


@dataclass
class _Entries:
    """What lies in one folder."""

    files: _Files = field(default_factory=_Files)
    folders: list[_FolderEntry] = field(default_factory=list)
    links: list[_FolderEntry] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    not_files: dict[str, str] = field(default_factory=dict)


def _entries_of(folder: _FolderEntry) -> _Entries:
    """What lies in a folder.

    Raises:
        StorageError: it can't be read.
    """
    found = _Entries()
    prefix = f"{folder.key}/" if folder.key else ""
    with named_errors(folder.path), os.scandir(folder.path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                found.hidden.append(f"{prefix}{name}{'/' * entry.is_dir(follow_symlinks=False)}")
            elif entry.is_file(follow_symlinks=False):
                _add_file(found.files, f"{prefix}{name}", entry)
            elif entry.is_symlink():
                found.links.append(folder.below(name))
            elif entry.is_dir(follow_symlinks=False):
                found.folders.append(folder.below(name))
            else:
                mode = entry.stat(follow_symlinks=False).st_mode
                found.not_files[f"{prefix}{name}"] = describe_mode(mode) or "no file"
    return found


def _is_folder(path: str) -> bool:
    """Whether there is a folder; one that can't be reached may be."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116  paths are text here, for odd bytes
    except (FileNotFoundError, NotADirectoryError):
        return False


def _add_file(files: _Files, key: str, entry: os.DirEntry[str]) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return  # removed since the folder was read: as if it had been removed before
    files.add(key, status.st_size, etag_of(status))


class _FolderWalk:
    def __init__(
        self, roots: Sequence[str], takes: Callable[[str], bool], threads: ThreadPoolExecutor
    ) -> None:
        self._roots = roots
        self._takes = takes
        self._threads = threads
        self._folders = [open_storage(root).root for root in roots]
        self.real_roots = [os.path.realpath(folder) for folder in self._folders]
        self._surveys = [Survey() for _ in roots]
        self._files = [_Files() for _ in roots]
        self._read: dict[str, str] = {}
        """Real path of every folder that was read -> the path under which it was."""
        self._links: deque[_FolderEntry] = deque()

    def read_root(self, number: int) -> None:
        """Read a root with all its folders, but for links."""
        folder = self._folders[number]
        with named_errors(folder):
            is_folder = _is_folder(folder)
        if is_folder:
            self._read_tree(_FolderEntry(number, "", folder, self.real_roots[number]))

    def follow_links(self) -> None:
        """Read what links lead to, links in linked folders included."""
        own = frozenset(self._read)
        self._links = deque(sorted(self._links, key=lambda link: (link.root, link.key)))
        while self._links:
            link = self._links.popleft()
            self._follow(link, own)

    def surveys(self) -> list[Survey]:
        """What was found, by root."""
        for found, files in zip(self._surveys, self._files, strict=True):
            found.files = files.table()
        return self._surveys

    def _named(self, place: _FolderEntry) -> str:
        """The path of a place as the configuration spells it."""
        root = self._roots[place.root]
        return f"{root.rstrip('/')}/{place.key}" if place.key else root

    def _read_tree(self, top: _FolderEntry) -> None:
        waiting = [top]
        while waiting:
            some = waiting[-_NUM_FOLDERS:]
            del waiting[-_NUM_FOLDERS:]
            first = [folder for folder in some if self._is_first(folder)]
            for folder, found in zip(first, self._threads.map(_entries_of, first), strict=True):
                waiting += self._note(folder, found)

    def _is_first(self, folder: _FolderEntry) -> bool:
        """Whether a folder has not been read; if it has, that is noted."""
        if folder.real in self._read:
            self._surveys[folder.root].repeated[folder.key] = self._read[folder.real]
            return False
        self._read[folder.real] = self._named(folder)
        return True

    def _note(self, folder: _FolderEntry, entries: _Entries) -> list[_FolderEntry]:
        """Note what lies in a folder; the folders in it."""
        found = self._surveys[folder.root]
        self._files[folder.root].extend(entries.files)
        found.hidden += entries.hidden
        found.not_files |= entries.not_files
        self._links += entries.links
        return [self._noted(found, inner) for inner in entries.folders]

    def _noted(self, found: Survey, folder: _FolderEntry) -> _FolderEntry:
        """The folder, after a word about it if it is called like a file."""
        if self._takes(folder.key):
            found.not_files[folder.key] = READ_AS_FOLDER
        return folder

    def _follow(self, link: _FolderEntry, own: frozenset[str]) -> None:
        """Note what a link leads to. `own` are the folders that were read without a link."""
        found, files = self._surveys[link.root], self._files[link.root]
        try:
            status = os.stat(link.path)  # noqa: PTH116
        except OSError:
            if self._takes(link.key):
                files.add(link.key, 0, DANGLING)
            else:
                found.not_files[link.key] = "a link to nothing"
            return
        real = os.path.realpath(link.path)
        if stat.S_ISDIR(status.st_mode):
            self._follow_folder(self._noted(found, _FolderEntry(link.root, link.key, link.path, real)), link)
        elif not stat.S_ISREG(status.st_mode):
            found.not_files[link.key] = describe_mode(status.st_mode) or "no file"
        else:
            folder, _, name = real.rpartition("/")
            if folder in own and self._takes(name) and not name.startswith("."):
                found.repeated[link.key] = f"{self._read[folder]}/{name}"
            else:
                files.add(link.key, status.st_size, etag_of(status))

    def _follow_folder(self, folder: _FolderEntry, link: _FolderEntry) -> None:
        if f"{link.real}/".startswith(f"{folder.real.rstrip('/')}/"):
            # The link lies in the folder that it leads to: a loop, even where that folder is no input.
            self._surveys[link.root].repeated[link.key] = self._read.get(folder.real, folder.real)
        else:
            self._read_tree(folder)
