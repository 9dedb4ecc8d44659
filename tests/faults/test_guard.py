"""A run that Ray would end without a word, or never let go, ends with a sentence and exit code 3."""

from __future__ import annotations

import subprocess
import sys

import pytest

from datasets_media import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SCRIPT = """
import time
from curation.execution.cluster import guard, watch
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.tasks import on_cluster
from curation.execution.progress import LineProgress
from process_tree import kill, processes_below
import os
import ray

def kill_process(title):
    found = [each for each in processes_below(os.getpid()) if title in each.words]
    assert len(found) == 1
    kill(found)

watch.ASK_EVERY_S, watch.ANSWER_S, guard.GRACE_S = 1.0, 2.0, 1.0
connection = connect(None, 1)
cluster = guard.Guard(LineProgress(print))
{body}
"""
STUCK_IN_A_CALL = """
kill_process("gcs_server")
list(on_cluster(str, [1], limit=lambda: 1, check=lambda: None, timeout_s=600))
"""
STORE_IS_GONE = """
kill_process("raylet/raylet")
time.sleep(0.3)  # a write at the same moment ends the process before anybody could look
for _ in range(500):
    ray.put(bytes(1000))
    time.sleep(0.01)
"""
CLOSED = """
cluster.close()
kill_process("raylet/raylet")
time.sleep(3)
os._exit(7)
"""


def run_script(body: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which is connected to a Ray of its own."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        (STUCK_IN_A_CALL, 3, "EnvironmentFault: the head of the Ray cluster has not answered for"),
        (STORE_IS_GONE, 3, "EnvironmentFault: Ray on this machine has ended: its raylet"),
        (CLOSED, 7, ""),
    ],
    ids=["stuck in a call", "object store is gone", "closed"],
)
def test_process_is_ended_before_ray_ends_it(body: str, code: int, sentence: str) -> None:
    """Ray would end it with 1: after a minute, or at once when it writes to the object store."""
    done = run_script(body)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_is_ours_after_ray_was_let_go() -> None:
    """Ray leaves SIGTERM to the system then, and a run that writes its report ended without a word."""
    body = """
import signal, sys
cluster.close()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
connection.close()
os.kill(os.getpid(), signal.SIGTERM)
"""
    assert run_script(body).returncode == 143
