"""Which samples go into which file: groups, runs of groups, cuts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.tokenize_shards.shards.layout import FileCutter, FileTask, file_tasks, shuffle_groups

SIZES = st.lists(st.lists(st.integers(1, 60), max_size=6), max_size=25)
"""Sizes of the samples of each unit."""


def tasks_of(sizes: Sequence[Sequence[int]], shuffle_bytes: int, shard_bytes: int) -> list[FileTask]:
    num_bytes = np.array([sum(unit) for unit in sizes], np.int64)
    num_samples = np.array([len(unit) for unit in sizes], np.int64)
    groups = shuffle_groups(num_bytes, shuffle_bytes)
    units = [10 * place for place in range(len(sizes))]
    return file_tasks("train", units, groups, num_samples, num_bytes, shard_bytes)


def test_groups_by_hand() -> None:
    groups = shuffle_groups(np.array([4, 5, 2, 9, 20, 0, 1], np.int64), 10)
    assert [list(group) for group in groups] == [[0, 1], [2], [3], [4], [5, 6]]
    assert shuffle_groups(np.array([], np.int64), 10) == []


def test_runs_of_groups_by_hand() -> None:
    # Groups of one unit each; a run is full at 10. What is left, 4, is less than half a file.
    (first, second) = tasks_of([[6], [6], [], [30], [4]], 1, 10)
    assert (first.groups, first.num_bytes, first.num_files) == (((0,), (10,)), 12, 2)
    assert (second.groups, second.num_bytes, second.first_file) == (((30,), (40,)), 34, 2)
    assert second.num_files == 2  # not 4: there are two samples
    assert second.name(1) == "train-00003-of-00004.parquet"
    # A rest of 5 is half a file, and stands alone.
    assert [task.num_bytes for task in tasks_of([[6], [6], [5]], 1, 10)] == [12, 5]


@given(SIZES, st.integers(1, 200), st.integers(1, 200))
def test_every_sample_is_in_one_task_and_files_are_of_fair_size(
    sizes: list[list[int]], shuffle_bytes: int, shard_bytes: int
) -> None:
    tasks = tasks_of(sizes, shuffle_bytes, shard_bytes)
    written = [unit // 10 for task in tasks for group in task.groups for unit in group]
    assert written == sorted(set(written))
    assert {place for place, unit in enumerate(sizes) if unit} <= set(written)
    assert sum(task.num_samples for task in tasks) == sum(map(len, sizes))
    assert [task.first_file for task in tasks] == [
        sum(task.num_files for task in tasks[:place]) for place in range(len(tasks))
    ]
    for task in tasks:
        assert 1 <= task.num_files <= task.num_samples
        assert task.num_files_of_split == sum(task.num_files for task in tasks)
        assert task.num_files == task.num_samples or task.num_bytes <= task.num_files * shard_bytes
        assert len(tasks) == 1 or 2 * task.num_bytes >= task.num_files * shard_bytes


@given(SIZES.filter(any), st.integers(1, 200), st.integers(1, 100))
def test_files_and_row_groups_of_a_task(
    sizes: list[list[int]], shard_bytes: int, row_group_bytes: int
) -> None:
    """Whatever the sizes: as many files as planned, none empty, and no row group larger than it may be."""
    (task,) = tasks_of(sizes, 10_000, shard_bytes)
    of_samples = [size for unit in sizes for size in unit]
    begins = dict(FileCutter(task, row_group_bytes).begins(np.array(of_samples, np.int64)))
    assert sum(begins.values()) == task.num_files
    bounds = [*begins, len(of_samples)]
    assert bounds[0] == 0
    for start, stop in itertools.pairwise(bounds):
        assert stop == start + 1 or sum(of_samples[start:stop]) <= row_group_bytes


@pytest.mark.parametrize("cut", [1, 3])
def test_cuts_do_not_depend_on_how_rows_come(cut: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 50, 60)
    (task,) = tasks_of([sizes.tolist()], 10_000, 200)
    whole = list(FileCutter(task, 90).begins(sizes))
    cutter, apart = FileCutter(task, 90), []
    for start in range(0, 60, cut):
        apart += [(start + place, new) for place, new in cutter.begins(sizes[start : start + cut])]
    assert apart == whole
