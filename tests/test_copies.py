"""Files without names that one process holds, and others open."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from curation.execution.copies import copy_of
from curation.storage.scratch import unnamed_file, use_scratch, write_temporary

READ_IT = """
import pickle, sys
copy = pickle.loads(bytes.fromhex(sys.argv[1]))
with copy.opened("node") as path:
    print(path.read_text() if path else None)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    use_scratch(str(tmp_path), 2**20)


def test_other_process_of_the_node_reads_it_while_it_is_held() -> None:
    def read_by_another() -> str:
        data = pickle.dumps(copy).hex()
        done = subprocess.run([sys.executable, "-c", READ_IT, data], capture_output=True, check=True)
        return done.stdout.decode().strip()

    with unnamed_file() as (file, path):
        write_temporary(file, b"a video")
        copy = copy_of(path, "node")
        assert read_by_another() == "a video"
        with copy.opened("node") as mine:
            assert mine is not None
            file.close()  # who has opened it keeps it
            assert mine.read_text() == "a video"
    assert read_by_another() == "None"


def test_process_of_another_node_gets_nothing() -> None:
    with unnamed_file() as (_, path), copy_of(path, "node").opened("another node") as found:
        assert found is None


def test_another_file_under_the_handle_is_not_taken_for_it() -> None:
    with unnamed_file() as (file, path):
        write_temporary(file, b"a video")
        copy = copy_of(path, "node")
    with unnamed_file() as (file, path):
        write_temporary(file, b"another")
        same_handle = replace(copy, handle=copy_of(path, "node").handle)
        with same_handle.opened("node") as found:
            assert found is None


def test_folder_under_the_handle_is_not_taken_for_it() -> None:
    with unnamed_file() as (_, path):
        copy = copy_of(path, "node")
    before = len(list(Path("/proc/self/fd").iterdir()))
    folder = os.open("/tmp", os.O_RDONLY)
    try:
        with replace(copy, handle=folder).opened("node") as found:
            assert found is None
    finally:
        os.close(folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
