"""Two runs at once on one output: the second refuses; two that both believe they hold it lose nothing."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from chaos import REASON, undisturbed
from outputs import differences, left_by
from sites import POLL_S, BucketSite, Run, Site

from buckets import S3Server
from datasets_media import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT_S = 300.0
UNHELD = """
import contextlib, sys
from curation.cli.app import main
from curation.storage.buckets.bucket import BucketStorage
from curation.storage.local import LocalStorage

for storage in (BucketStorage, LocalStorage):
    storage.exclusive = lambda *_, **__: contextlib.nullcontext()
main(sys.argv[1:])
"""
"""The command, holding its output against nobody."""


@pytest.fixture(scope="module", params=["folder", "bucket"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        with closing(Site(folder) if request.param == "folder" else BucketSite(folder, s3_server)) as found:
            yield found


@pytest.fixture(scope="module")
def expected(site: Site) -> dict[str, Any]:
    """What one run leaves, alone."""
    left: dict[str, Any] = undisturbed(site)["left"]
    return left


def end_of(run: Run) -> int:
    """The exit code."""
    deadline = time.monotonic() + LIMIT_S
    while run.look():
        assert time.monotonic() < deadline, run.said
        time.sleep(POLL_S)
    return int(run.process.returncode)


def wait_for_work(site: Site, run: Run, output: str) -> None:
    """Until the run has measured something."""
    deadline = time.monotonic() + LIMIT_S
    while not any(key.startswith("ledger/") for key in site.keys(output)):
        assert run.look(), run.said
        assert time.monotonic() < deadline, run.said
        time.sleep(POLL_S)


def test_second_run_refuses_and_the_first_goes_on(site: Site, expected: dict[str, Any]) -> None:
    output = site.new_output()
    config = write_config(site.folder / "two.yaml", site.settings(output))
    first = Run(site, config, site.folder / "first.txt")
    try:
        wait_for_work(site, first, output)
        second = Run(site, config, site.folder / "second.txt")
        try:
            assert end_of(second) == 3, second.said
        finally:
            second.end()
        assert re.search("another run is working on this output|is in use by a run of .* on ", second.said)
        assert first.look(), "the first run ended before the second had a chance"
        assert end_of(first) == 0, first.said
    finally:
        first.end()
    assert differences(left_by(site.settings(output)), expected) == []


def test_two_runs_that_both_hold_the_output_lose_nothing(site: Site, expected: dict[str, Any]) -> None:
    """Each ends well, or stops for the other; one run after them is all that is needed."""
    output = site.new_output()
    config = write_config(site.folder / "both.yaml", site.settings(output))
    program = [sys.executable, "-c", UNHELD]
    both = [Run(site, config, site.folder / f"both{number}.txt", program) for number in range(2)]
    try:
        for run in both:
            assert end_of(run) in (0, 3), run.said
            assert "Traceback" not in run.said, run.said
            assert run.process.returncode == 0 or REASON.search(run.said), run.said
    finally:
        for run in both:
            run.end()
    after = Run(site, config, site.folder / "after.txt")
    try:
        assert end_of(after) == 0, after.said
    finally:
        after.end()
    assert differences(left_by(site.settings(output)), expected) == []
