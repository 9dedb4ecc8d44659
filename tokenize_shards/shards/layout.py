"""Which samples go into which file: groups of units that are shuffled together, and runs of groups that
fill whole files.

The layout is a pure function of the units' sizes. A file holds samples of one run of groups alone, so
that runs can be written by different workers, in any order, and give the same files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FileTask:
    """Consecutive files of one split, and all that is in them.

    Attributes:
        split: The split.
        groups: Units that are shuffled together, group by group in the order of the files.
        num_samples, num_bytes: Of the split's samples in these groups; bytes are estimated.
        first_file: Number of the first file in the split.
        num_files: How many files there are of the task.
        num_files_of_split: How many there are of the split.
    """

    split: str
    groups: tuple[tuple[int, ...], ...]
    num_samples: int
    num_bytes: int
    first_file: int
    num_files: int
    num_files_of_split: int

    def name(self, place: int) -> str:
        """The name of the task's file number `place`."""
        return f"{self.split}-{self.first_file + place:05d}-of-{self.num_files_of_split:05d}.parquet"


def shuffle_groups(num_bytes: NDArray[np.int64], shuffle_bytes: int) -> list[range]:
    """Places of the units of each group: as many as fit into `shuffle_bytes`, at least one.

    `num_bytes` is the size of each unit.
    """
    groups: list[range] = []
    group_bytes = 0
    for place, unit_bytes in enumerate(num_bytes.tolist()):
        if not groups or group_bytes + unit_bytes > shuffle_bytes:
            groups.append(range(place, place))
            group_bytes = 0
        groups[-1] = range(groups[-1].start, place + 1)
        group_bytes += unit_bytes
    return groups


def file_tasks(
    split: str,
    units: Sequence[int],
    groups: Sequence[range],
    num_samples: NDArray[np.int64],
    num_bytes: NDArray[np.int64],
    shard_bytes: int,
) -> list[FileTask]:
    """The files of a split: each run of groups is as short as fills a file, and cut into equal files.

    `num_samples` and `num_bytes` are those of the split in each unit. What is left at the end joins the
    run before it if it is less than half a file, so that every file is more than half of `shard_bytes`
    where the split is.
    """
    found: list[FileTask] = []
    first_file = 0
    for run in _runs(groups, num_samples, num_bytes, shard_bytes):
        places = [place for group in run for place in group]
        samples, size = int(num_samples[places].sum()), int(num_bytes[places].sum())
        number = min(samples, -(-size // shard_bytes))
        own = tuple(tuple(units[place] for place in group) for group in run)
        found.append(FileTask(split, own, samples, size, first_file, number, 0))
        first_file += number
    return [
        FileTask(
            task.split,
            task.groups,
            task.num_samples,
            task.num_bytes,
            task.first_file,
            task.num_files,
            first_file,
        )
        for task in found
    ]


def _runs(
    groups: Sequence[range],
    num_samples: NDArray[np.int64],
    num_bytes: NDArray[np.int64],
    shard_bytes: int,
) -> list[list[range]]:
    """Consecutive groups that have samples, in runs that fill a file."""
    runs: list[list[range]] = [[]]
    run_bytes = 0
    for group in groups:
        if not num_samples[group].any():
            continue
        if run_bytes >= shard_bytes:
            runs.append([])
            run_bytes = 0
        runs[-1].append(group)
        run_bytes += int(num_bytes[group].sum())
    if len(runs) > 1 and 2 * run_bytes < shard_bytes:
        rest = runs.pop()
        runs[-1] += rest
    return [run for run in runs if run]


class FileCutter:
    """Says, row by row, where the files of a task and their row groups begin.

    Files get equal shares of the task's bytes, and each a row at least.
    """

    def __init__(self, task: FileTask, row_group_bytes: int) -> None:
        self._num_files, self._num_bytes, self._rows_left = task.num_files, task.num_bytes, task.num_samples
        self._row_group_bytes = row_group_bytes
        self._num_begun = self._bytes_before = self._group_bytes = 0

    def begins(self, sizes: NDArray[np.int64]) -> Iterator[tuple[int, bool]]:
        """Places of the rows, of those of these sizes, that begin a row group; whether it begins a file."""
        for place, size in enumerate(sizes.tolist()):
            is_new_file = self._is_full()
            if is_new_file:
                self._num_begun += 1
            if is_new_file or self._group_bytes + size > self._row_group_bytes:
                yield place, is_new_file
                self._group_bytes = 0
            self._group_bytes += size
            self._bytes_before += size
            self._rows_left -= 1

    def _is_full(self) -> bool:
        """Whether the open file has its share of the bytes, or the rows left are needed one per file."""
        if not self._num_begun:
            return True
        files_left = self._num_files - self._num_begun
        has_share = self._bytes_before * self._num_files >= self._num_bytes * self._num_begun
        return files_left > 0 and (has_share or self._rows_left <= files_left)
