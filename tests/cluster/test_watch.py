"""Questions to the head of a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import ray

from curation.errors import EnvironmentFault
from curation.execution.cluster import watch as watches
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.watch import ClusterWatch
from datasets_media import environment
from process_tree import Process, processes_below

LATE = """
from curation.cli.app import main
try:
    main(["--version"])
except SystemExit:
    import ray
    try:
        ray.put(1)
    except Exception as error:
        print(error)
"""


@pytest.mark.slow
def test_question_during_which_ray_is_let_go_joins_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts by itself where some of its functions are called without it."""
    connection, nodes = connect(None, 1), ray.nodes

    def nodes_and_then_none() -> Any:
        found = nodes()
        connection.close()
        return found

    try:
        watch = ClusterWatch()
        watch.check_now()
        assert watch.own_node in watch.state.alive
        monkeypatch.setattr(ray, "nodes", nodes_and_then_none)
        with pytest.raises(EnvironmentFault, match="Ray has not been started yet"):
            watch.check_now()
        assert not ray.is_initialized()
    finally:
        connection.close()


def head() -> Process:
    """The head of the cluster that this process has started."""
    (found,) = [each for each in processes_below(os.getpid()) if "gcs_server" in each.words]
    return found


@pytest.mark.slow
def test_answer_that_is_owed_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or Ray ends this process: a minute after the head that owes it has been ended."""
    monkeypatch.setattr(watches, "ASK_EVERY_S", 0.0)
    connection = connect(None, 1)
    try:
        watch = ClusterWatch()
        head().signal(signal.SIGSTOP)
        threading.Timer(3.0, head().signal, [signal.SIGCONT]).start()
        watch.check()
        (asking,) = [thread for thread in threading.enumerate() if thread.name == "cluster watch"]
        watch.close()
        asking.join(0.5)
        assert not asking.is_alive()
    finally:
        head().signal(signal.SIGCONT)
        connection.close()


def test_nothing_that_the_command_calls_starts_ray_by_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE], env=environment(), capture_output=True, text=True, check=True
    )
    assert "Ray has not been started yet" in done.stdout
