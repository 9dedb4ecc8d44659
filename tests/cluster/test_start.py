"""Ray on this machine, where the machine is too busy to start it in Ray's own time."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from curation.errors import EnvironmentFault
from curation.execution.cluster.joining import connection
from curation.execution.cluster.joining.connection import STARTS, connect
from datasets_media import environment

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed."


class Stubborn:
    """What stands in for a Ray of the run's own: it fails `num_failures` times, then is there."""

    def __init__(self, num_failures: int, says: str) -> None:
        self.num_starts, self._num_failures, self._says = 0, num_failures, says

    def __call__(self, num_cpus: int | None, **_: Any) -> Any:
        self.num_starts += 1
        if self.num_starts <= self._num_failures:
            raise Exception(self._says)  # noqa: TRY002  so does Ray
        return self


def test_is_tried_again_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Stubborn(STARTS - 1, SLOW)
    monkeypatch.setattr(connection, "OwnRay", ray)
    connect(None, 2)
    assert ray.num_starts == STARTS


@pytest.mark.parametrize(("says", "num_starts"), [(SLOW, STARTS), ("No such file", 1)])
def test_is_not_tried_for_ever_nor_where_it_can_not_help(
    monkeypatch: pytest.MonkeyPatch, says: str, num_starts: int
) -> None:
    ray = Stubborn(99, says)
    monkeypatch.setattr(connection, "OwnRay", ray)
    with pytest.raises(EnvironmentFault, match="cannot start Ray on this machine"):
        connect(None, 2)
    assert ray.num_starts == num_starts


KILLED = """
import os, subprocess, sys
from curation.execution.cluster.joining.connection import connect

killer = subprocess.Popen([sys.executable, "-c", os.environ["KILLER"], str(os.getpid())])
connect(None, 2).close()
killer.kill()
"""
KILLER = """
import sys, time
from process_tree import kill, processes_below

while True:
    found = [each for each in processes_below(int(sys.argv[1])) if "default_worker.py" in each.words]
    kill(each for each in found if "raylet/raylet" not in each.words)
    time.sleep(0.01)
"""


@pytest.mark.slow
def test_joins_although_every_worker_is_killed_that_starts() -> None:
    """Ray has the first driver wait for the first workers, without a limit, unless it is told not to."""
    command = [sys.executable, "-c", KILLED]
    subprocess.run(command, env={**environment(), "KILLER": KILLER}, check=True, timeout=60)
