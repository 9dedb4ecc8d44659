"""Calls spread over a real Ray: results in order, errors as they were raised, lost calls made again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from curation.errors import EnvironmentFault, StorageError
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.tasks import in_process
from curation.execution.cluster.tasks import on_cluster as on_cluster_until
from datasets_media import ROOT, TESTS


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{TESTS}")  # for the functions below
    connection = connect(None, 2)
    yield
    connection.close()


def _square(number: int) -> int:
    return number * number


def _fail_at_three(number: int) -> int:
    if number == 3:
        raise StorageError("no such bucket")
    return number


def _die_once(folder: Path, number: int) -> int:
    """Ends its process the first time that it is called for a number."""
    marker = folder / str(number)
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return number


on_cluster = partial(on_cluster_until, check=lambda: None, timeout_s=60)


def _never_end(_: int) -> None:
    time.sleep(3600)


def _fail(message: str) -> None:
    raise EnvironmentFault(message)


@pytest.mark.usefixtures("cluster")
def test_call_that_does_not_end_and_cluster_that_is_gone_are_not_waited_for() -> None:
    with pytest.raises(EnvironmentFault, match="a task has not ended for 3 s"):
        list(on_cluster_until(_never_end, range(2), limit=lambda: 2, check=lambda: None, timeout_s=3))
    gone = partial(_fail, "the cluster is gone")
    with pytest.raises(EnvironmentFault, match="the cluster is gone"):
        list(on_cluster_until(_never_end, range(2), limit=lambda: 2, check=gone, timeout_s=3600))


@pytest.mark.usefixtures("cluster")
def test_calls_on_the_cluster(tmp_path: Path) -> None:
    assert list(on_cluster(_square, range(7), limit=lambda: 2)) == list(in_process(_square, range(7)))
    found = on_cluster(_fail_at_three, range(9), limit=lambda: 2)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StorageError, match="no such bucket"):
        next(found)
    assert list(on_cluster(partial(_die_once, tmp_path), range(2), limit=lambda: 2)) == [0, 1]
