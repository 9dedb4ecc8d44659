"""Runs a sample of the sources through the pipeline, in an output of its own, and keeps what that took.

    with run_pilot(config, outlook, number=200, seed=0, progress=progress) as pilot:
        forecast = forecast_of(pilot)

The real output is neither written to nor held: the pilot's output is temporary, on this machine, and what was
measured in it is not reused. It would be worth little there: what a ledger's units are decides the order of
the shards, so that a run after a pilot would give other files than one without.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.config import Config, parse_config
from curation.errors import ConfigError
from curation.estimate.outlook import Outlook
from curation.estimate.sampling import draw_sources
from curation.estimate.temporary import temporary_output
from curation.execution.progress import ProgressListener
from curation.execution.run import Result, RunOptions, open_for_work, run
from curation.ingest.listed import ListedSources
from curation.ingest.listing import Listing
from curation.ingest.tombstones import add_tombstones, read_tombstones
from curation.ledger import Ledger
from curation.storage import Storage, open_storage

UNITS_PER_WORKER = 4
"""A pilot's units are so small that each worker gets this many, if there are enough sources."""


@dataclass(frozen=True)
class OpenSources:
    """The sources of the inputs that a run has something to do with.

    Attributes:
        listed: What a listing says of each of them.
        needs_filters: bool [N], whether a filter has to look at it; else only captions and tokens do.
        drawn: Places of those in the pilot.
    """

    listed: pa.Table
    needs_filters: NDArray[np.bool_]
    drawn: NDArray[np.int64]


@dataclass(frozen=True)
class Pilot:
    """A pilot that was run.

    Attributes:
        config: The real configuration.
        outlook: What the run is that the pilot tells about.
        sources: The sources, and which were drawn.
        result: What the pilot's run measured.
        ledger: The pilot's ledger.
        num_workers: Decode workers that the real run has on this machine, at most.
        seconds: What the pilot's run took, from the start of the command's work to its end.
        driver_cpu_s: CPU seconds of this process in it.
    """

    config: Config
    outlook: Outlook
    sources: OpenSources
    result: Result
    ledger: Ledger
    num_workers: int
    seconds: float
    driver_cpu_s: float


class _Chooser:
    """Picks the pilot's sources when the run has listed the inputs."""

    def __init__(self, outlook: Outlook, number: int, seed: int, limit: int | None) -> None:
        self._outlook, self._number, self._seed, self._limit = outlook, number, seed, limit
        self.found: OpenSources | None = None

    def __call__(self, listing: Listing) -> Listing:
        listed = listing.sources.table.slice(0, self._limit)
        is_done, needs_filters = self._outlook.done.of(listed)
        is_open = pa.array(~is_done)
        listed = listed.filter(is_open)
        if not listed.num_rows:
            raise ConfigError("--pilot: nothing is left to be measured, so there is nothing to estimate")
        drawn = draw_sources(listed, self._number, self._seed)
        self.found = OpenSources(listed, needs_filters[~is_done], drawn)
        return Listing(ListedSources(listed.take(pa.array(drawn))), listing.leftovers)


def check_pilot(config: Config) -> None:
    """Make sure that a pilot finds all that it needs, as a run does before it begins.

    Raises:
        CurationError: something is missing; all of it is named.
    """
    with temporary_output(config.run.scratch) as folder:
        open_for_work(_pilot_config(config, folder, number=1, num_workers=1), RunOptions())


@contextmanager
def run_pilot(
    config: Config,
    outlook: Outlook,
    *,
    number: int,
    seed: int,
    progress: ProgressListener,
    limit: int | None = None,
) -> Iterator[Pilot]:
    """Run `number` of the sources that are left; what the pilot wrote is there as long as the context lasts.

    Raises:
        ConfigError: fewer sources are left, or none of those drawn could be read.
        CurationError: as `run`.
    """
    if not outlook.unlisted:
        _check_number(outlook, number, limit)
    num_workers = config.run.workers.wanted(os.cpu_count() or 1, can_grow=False)
    with temporary_output(config.run.scratch) as folder:
        storage = open_storage(folder)
        copy_listing(open_storage(config.general.output), storage)
        chooser = _Chooser(outlook, number, seed, limit)
        began, began_cpu_s = time.monotonic(), time.process_time()
        result = run(_pilot_config(config, folder, number, num_workers), RunOptions(choose=chooser), progress)
        seconds, cpu_s = time.monotonic() - began, time.process_time() - began_cpu_s
        if chooser.found is None:
            raise ConfigError("--pilot: the inputs were not listed")
        _check_readable(result)
        yield Pilot(config, outlook, chooser.found, result, Ledger(storage), num_workers, seconds, cpu_s)


def _check_number(outlook: Outlook, number: int, limit: int | None) -> None:
    """Say at once that a pilot is too large, before anything is started.

    Raises:
        ConfigError: it is.
    """
    _Chooser(outlook, number, 0, limit)(outlook.listing)


def _check_readable(result: Result) -> None:
    counts = result.summary.sources.values()
    if all(outcome.value == "failed" for count in counts for outcome in count):
        kinds = ", ".join(f"{number} by {kind}" for kind, number in result.summary.failed_by.most_common())
        raise ConfigError(
            f"--pilot: every source that was drawn failed ({kinds}); there is nothing to estimate by"
        )


def copy_listing(output: Storage, target: Storage) -> None:
    """Let the pilot list its inputs as the output does.

    That is with what is known of containers, so that none is listed again, and without what was retracted.
    """
    for item in output.list("listing"):
        data = output.read(item.key)
        if data is not None:
            target.write(item.key, data)
    add_tombstones(target, read_tombstones(output).stones)


def _pilot_config(config: Config, folder: str, number: int, num_workers: int) -> Config:
    """The configuration, with small units, so that all workers have something to do."""
    size = max(1, math.ceil(number / (UNITS_PER_WORKER * num_workers)))
    settings: dict[str, Any] = dict(config.resolved.get("run") or {})
    settings |= {
        "unit_images": min(size, config.run.unit_images),
        "unit_videos": min(size, config.run.unit_videos),
    }
    return parse_config({**config.resolved, "output": folder, "run": settings}, "the pilot")
