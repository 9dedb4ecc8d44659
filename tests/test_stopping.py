"""Signals that come where Python can't raise what their handler raises."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from curation.cli.stopping import LIMIT_S, STOPPED
from datasets_media import environment

SCRIPT = """
import os, signal, sys, time
from curation.cli.stopping import StopSignals

class Closing:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.5)  # the handler runs here

with StopSignals():
    if sys.argv[2] == "ray":  # as `ray.init` does for a moment
        signal.signal(int(sys.argv[1]), lambda number, _: sys.exit(number))
    closing = Closing()
    del closing
    print("goes on", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("handler", ["own", "ray"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_that_is_lost_in_a_destructor_ends_the_process_all_the_same(number: int, handler: str) -> None:
    began = time.monotonic()
    words = [sys.executable, "-c", SCRIPT, str(int(number)), handler]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stdout) == (128 + number, "goes on\n")
    assert done.stderr.strip() == STOPPED
    assert time.monotonic() - began >= LIMIT_S
