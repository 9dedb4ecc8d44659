"""Runs whose processes are killed at random moments leave what an undisturbed run leaves.

python -m pytest tests/faults/test_chaos.py --kills 200 --chaos-seed 7
"""

from __future__ import annotations

import logging
import math
import os
from contextlib import closing
from pathlib import Path

import pytest
from chaos import Chaos, undisturbed
from outputs import NUM_IN_TAR, NUM_PHOTOS, NUM_VIDEOS
from sites import BucketSite, ClusterSite, Site, SmallDiskSite

from buckets import S3Server

LOG = logging.getLogger(__name__)
"""What was struck: pytest --log-cli-level=INFO."""
pytestmark = pytest.mark.slow

SHARES = {"this machine": 13, "a cluster": 6, "a bucket": 8, "small disks": 3}
"""Of thirty kills."""


def strike(site: Site, name: str, pytestconfig: pytest.Config, chaos_seed: int) -> None:
    """Run undisturbed, then strike and compare."""
    reference = undisturbed(site)
    books = reference["left"]["books"]
    assert books["image sources"]["in"] == NUM_PHOTOS + NUM_IN_TAR
    assert books["video sources"]["in"] == NUM_VIDEOS
    assert books["images"]["failed"] == 1
    chaos = Chaos(site, f"{name} {chaos_seed}")
    try:
        chaos.strike(math.ceil(pytestconfig.getoption("--kills") * SHARES[name] / 30), reference)
    finally:
        LOG.info("%s", chaos.log)


def test_kills_on_this_machine(tmp_path: Path, pytestconfig: pytest.Config, chaos_seed: int) -> None:
    with closing(Site(tmp_path)) as site:
        strike(site, "this machine", pytestconfig, chaos_seed)


def test_kills_on_a_cluster(tmp_path: Path, pytestconfig: pytest.Config, chaos_seed: int) -> None:
    with closing(ClusterSite(tmp_path)) as site:
        strike(site, "a cluster", pytestconfig, chaos_seed)


def test_kills_over_a_bucket(
    tmp_path: Path, pytestconfig: pytest.Config, chaos_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is its own, since it is killed."""
    with S3Server(tmp_path / "s3") as server, closing(BucketSite(tmp_path, server)) as site:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        strike(site, "a bucket", pytestconfig, chaos_seed)


@pytest.mark.skipif(os.geteuid() != 0, reason="small disks can only be mounted by root")
def test_disks_that_fill_up(tmp_path: Path, pytestconfig: pytest.Config, chaos_seed: int) -> None:
    with closing(SmallDiskSite(tmp_path)) as site:
        strike(site, "small disks", pytestconfig, chaos_seed)
