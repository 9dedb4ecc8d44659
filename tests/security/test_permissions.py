"""Who may read what a run writes is the umask's business."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from curation.execution.run import write_report
from curation.storage import open_storage
from curation.storage.base import ABSENT
from datasets_media import Bench, write_photo


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644), (0o002, 0o664)])
def test_a_file_gets_what_the_umask_leaves(tmp_path: Path, mask: int, mode: int) -> None:
    storage = open_storage(str(tmp_path))
    with umask(mask):
        storage.write("a/new", b"x")
        storage.write("a/new", b"y")
        storage.write("a/first", b"x", expect=ABSENT)
    assert [mode_of(tmp_path / name) for name in ("a/new", "a/first")] == [mode, mode]
    assert mode_of(tmp_path / "a") == 0o777 & ~mask


def test_a_private_output_stays_private(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "in/a.jpg", 1)
    data = {
        "name": "small",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution", "thumbnail"], "resolution": {"min_width": 16, "min_height": 16}},
    }
    with umask(0o077):
        bench = Bench(data)
        bench.run()
        with bench.ledger.storage.exclusive():
            write_report(bench.pipeline, bench.ledger)
    written = list((tmp_path / "out").rglob("*"))
    assert len(written) > 8
    assert {path.name: oct(mode_of(path) & 0o077) for path in written} == {
        path.name: "0o0" for path in written
    }
