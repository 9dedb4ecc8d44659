"""Python, packages, Ray, GPU, disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from curation.config import Config
from curation.doctor.finding import Finding
from curation.errors import StorageError
from curation.execution.cluster.joining.connection import check_cluster, check_temp_folder, connect
from curation.execution.cluster.watch import ClusterWatch
from curation.report.summary.words import data_size
from curation.storage.access import check_writing_below
from curation.version import __version__

LEAST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 10 * 2**30
"""Below this much room for the output a warning is due: one shard alone may have 1 GB."""
LEAST_SHARED_BYTES = 2**30
"""Of /dev/shm, by which Ray's workers hand pictures to each other."""


def check_python() -> Iterator[Finding]:
    """The version of Python."""
    is_enough = sys.version_info >= LEAST_PYTHON
    wanted = ".".join(map(str, LEAST_PYTHON))
    text = f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs"
    yield Finding("python", "ok" if is_enough else "failed", text, "" if is_enough else f"needs {wanted}")


def check_packages() -> Iterator[Finding]:
    """The packages that every run needs, in versions that it was made for."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("curation") or []]
    except PackageNotFoundError:
        yield Finding("packages", "warning", "curation is not installed, so what it needs is unknown")
        return
    bad, num_good = [], 0
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(one.name)
        except PackageNotFoundError:
            bad.append(f"{one.name} is missing")
            continue
        if one.specifier.contains(found, prereleases=True):
            num_good += 1
        else:
            bad.append(f"{one.name} {found} is not {one.specifier}")
    if bad:
        yield Finding("packages", "failed", ", ".join(bad), "pip install -U curation")
    else:
        yield Finding("packages", "ok", f"curation {__version__} and {num_good} packages")


def check_ray(address: str | None) -> Iterator[Finding]:
    """Whether Ray starts here, or the cluster answers."""
    if address is None:
        check_temp_folder()
    check_cluster(address)
    started = time.monotonic()
    connection = connect(address, None)
    try:
        watch = ClusterWatch()
        watch.check_now()
        seconds = time.monotonic() - started
        where = "starts on this machine" if address is None else f"answers at {address}"
        yield Finding("ray", "ok", f"{where}, {watch.state.num_cpus} CPUs ({seconds:.1f} s)")
    finally:
        connection.close()


def check_gpu() -> Iterator[Finding]:
    """The GPUs that torch sees."""
    if find_spec("torch") is None:
        yield Finding("gpu", "warning", "torch is not installed", "stages with models need it")
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding("gpu", "ok", f"torch {torch.__version__} sees none: models run on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield Finding(
            "gpu", "ok", f"{torch.cuda.get_device_name(number)}, {memory}, torch {torch.__version__}"
        )


def check_disk(config: Config | None) -> Iterator[Finding]:
    """Room for the output, for what is fetched of buckets, and for what workers share."""
    if config is not None and "://" not in config.general.output:
        yield _room("output", Path(config.general.output), LEAST_FREE_BYTES, "a run writes ledger and shards")
    folder = Path((config.run.scratch if config else None) or tempfile.gettempdir())
    workers = (config.run.workers.max if config else None) or os.cpu_count() or 1
    wanted = workers * (config.run.scratch_bytes if config else 2**32)
    yield _room("scratch", folder, wanted, "name a larger one by run.scratch, or lower run.scratch_bytes")
    shared = Path("/dev/shm")  # noqa: S108  # Ray's own place
    if shared.is_dir():
        yield _room("shared memory", shared, LEAST_SHARED_BYTES, "a container needs --shm-size=8g")


def _room(check: str, folder: Path, wanted: int, advice: str) -> Finding:
    try:
        there = check_writing_below(str(folder))
    except StorageError as error:
        return Finding(check, "failed", f"can't be written to: {error}", "choose another folder")
    free = shutil.disk_usage(there).free
    text = f"{data_size(free)} free at {there}"
    if free < wanted:
        return Finding(check, "warning", f"{text}, {data_size(wanted)} may be wanted", advice)
    return Finding(check, "ok", text)
