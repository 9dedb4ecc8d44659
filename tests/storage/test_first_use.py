"""A bucket's library is imported by several threads at once: none may use it before it is whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from curation.errors import EnvironmentFault, ProbeError
from curation.errors.isolation import isolated
from curation.storage import open_storage
from datasets_media import environment

FIRST_USE = """
import builtins, sys, threading, time
from curation.storage import open_storage

imported = builtins.__import__

def slowly(name, globals=None, locals=None, fromlist=(), level=0):
    # obstore takes its functions from its compiled part last, after its stores and errors.
    if (globals or {}).get("__name__") == "obstore" and fromlist == ("*",):
        time.sleep(1)
    return imported(name, globals, locals, fromlist, level)

builtins.__import__ = slowly
faults = []

def read():
    while "obstore.store" not in sys.modules and threading.current_thread().name != "first":
        time.sleep(0.01)
    try:
        assert open_storage(sys.argv[1]).read("a") == b"x"
    except BaseException as error:
        faults.append(error)

threads = [threading.Thread(target=read, name=name) for name in ("first", "second", "third")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(repr(faults) if faults else 0)
"""


def test_threads_wait_until_it_is_whole(bucket: str) -> None:
    open_storage(bucket).write("a", b"x")
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE, bucket],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_half_imported_module_is_no_fault_of_a_source() -> None:
    text = "partially initialized module 'x' has no attribute 'y' (most likely due to a circular import)"
    with pytest.raises(EnvironmentFault), isolated(ProbeError):
        raise AttributeError(text)
