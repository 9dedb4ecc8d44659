"""What a run would take and give, from a pilot: totals with intervals.

    forecast = forecast_of(pilot)
    forecast.find("wall time").estimate.interval()

An interval says how far another sample of sources might have led. It does not know that a machine may be
busier than it was during the pilot.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from curation.config import Config
from curation.config.config import Prices
from curation.estimate.measured import PilotValues, measure_pilot
from curation.estimate.pilot import Pilot
from curation.estimate.ratio import ZERO, Estimate, Stratum, estimate
from curation.estimate.sampling import places_by_kind
from curation.execution.new_units import new_units
from curation.execution.worker.metrics import DECODE, PoolMetrics
from curation.ledger.unit_state import branch_steps

Floats = NDArray[np.float64]
FEW_SHARDS = 4
"""Of so few files a pilot does not show how many rows fill one."""


@dataclass(frozen=True)
class Quantity:
    """One line of a forecast.

    Attributes:
        name: What it is.
        unit: In what; "" for a number of things.
        estimate: How much.
        note: What should be known about it.
    """

    name: str
    unit: str
    estimate: Estimate
    note: str = ""


@dataclass(frozen=True)
class StepForecast:
    """What a step would measure, and how much of it would pass."""

    key: str
    rows: Estimate
    pass_rate: Estimate | None


@dataclass(frozen=True)
class Forecast:
    """What a run would take and give.

    Attributes:
        num_drawn, num_sources: How many sources the pilot ran, of how many that are left.
        num_failed: How many of those drawn failed.
        num_workers: Decode workers.
        pilot_s: Seconds that the pilot took.
        steps: In the order of the work.
        quantities: In the order in which they are told.
        notes: What should be known of all of it.
    """

    num_drawn: int
    num_sources: int
    num_failed: int
    num_workers: int
    pilot_s: float
    steps: tuple[StepForecast, ...]
    quantities: tuple[Quantity, ...]
    notes: tuple[str, ...]

    def find(self, name: str) -> Quantity:
        """The line of this name."""
        return next(quantity for quantity in self.quantities if quantity.name == name)


def forecast_of(pilot: Pilot) -> Forecast:
    """What the run would take and give that the pilot is a sample of."""
    return _Forecaster(pilot, measure_pilot(pilot)).forecast()


@dataclass(frozen=True)
class _Time:
    """Time that a run takes.

    Attributes:
        wall_s: From beginning to end.
        cpu_s: Of this process and its decode workers.
        passes_s: Pass -> seconds.
        fixed_s: Of `wall_s`, what does not depend on how much there is to do: the start of Ray, of workers
            and of models, and the end.
    """

    wall_s: Estimate
    cpu_s: Estimate
    passes_s: Mapping[str, Estimate] = field(default_factory=dict)
    fixed_s: float = 0.0


class _Forecaster:
    _NOTES: ClassVar = {
        "images": "",
        "clips": "a long one counts once for each window that it is captioned in",
    }

    def __init__(self, pilot: Pilot, measured: PilotValues) -> None:
        self._pilot, self._measured = pilot, measured
        self._config: Config = pilot.config
        branches = pilot.result.pipeline.branches.values()
        self._filters = {"", *(step.key for branch in branches for step in branch_steps(branch))}
        listed = pilot.sources.listed
        self._places = places_by_kind(listed)
        self._sizes = listed["size_bytes"].to_numpy().astype(np.float64)
        self._strata = {
            kind: Stratum(
                len(places), float(self._sizes[places].sum()), measured.sizes[measured.kinds == kind]
            )
            for kind, places in self._places.items()
        }
        self._units = {
            kind: list(new_units(kind, self._sizes[places], self._config.run))
            for kind, places in self._places.items()
        }

    def forecast(self) -> Forecast:
        time, data = self._time(), self._ledger_bytes()
        shards, gpu_s = self._shard_bytes(), self._gpu_s(time)
        return Forecast(
            num_drawn=len(self._measured.sizes),
            num_sources=len(self._sizes),
            num_failed=int(self._measured.values.get("failed", np.zeros(1)).sum()),
            num_workers=self._num_workers(),
            pilot_s=self._pilot.seconds,
            steps=tuple(self._steps()),
            quantities=(*self._counts(), *self._costs(time, data, shards, gpu_s)),
            notes=tuple(self._notes(time)),
        )

    def _total(self, name: str) -> Estimate:
        """The total of a value over all sources that are left."""
        values = self._values(name)
        return estimate(self._strata, {kind: values[self._measured.kinds == kind] for kind in self._strata})

    def _values(self, name: str) -> Floats:
        """A value of each drawn source; 0 for what the run will not do, since the ledger has it already."""
        values = self._measured.values.get(name, np.zeros(len(self._measured.sizes)))
        what, _, key = name.partition(" ")
        is_of_filters = key in self._filters or (what in ("wall", "cpu") and key != "enrich")
        sources = self._pilot.sources
        return values * sources.needs_filters[sources.drawn] if is_of_filters else values

    def _steps(self) -> Iterator[StepForecast]:
        for step in dict.fromkeys(step.key for step in self._pilot.result.pipeline.steps()):
            rows = self._total(f"rows {step}")
            yield StepForecast(step, rows, self._total(f"passed {step}").over(rows))

    def _counts(self) -> Iterator[Quantity]:
        yield Quantity("failed sources", "", self._total("failed"))
        for kind in ("images", "clips"):
            if kind in self._measured.values:
                yield Quantity(kind, "", self._total(kind), self._NOTES[kind])
        splitters = [branch.splitter for branch in self._pilot.result.pipeline.branches.values()]
        for splitter in filter(None, splitters):
            if "video" in self._strata:
                clips = self._total(f"rows {splitter.key}")
                yield Quantity("clips per video", "", clips.scaled(1 / self._strata["video"].number))
        yield Quantity("kept samples", "", self._total("kept"))
        if self._config.shards is not None:
            yield Quantity("documents", "", self._total("documents"))
            yield Quantity("tokens", "", self._total("tokens"))

    def _costs(self, time: _Time, data: Estimate, shards: Estimate, gpu_s: Estimate) -> Iterator[Quantity]:
        hours = time.wall_s.scaled(self._num_workers() / 3600)
        gpu_hours = gpu_s.scaled(1 / 3600)
        terabytes = (data + shards).scaled(1e-12)
        yield Quantity("ledger", "bytes", data)
        yield Quantity("shards", "bytes", shards)
        yield Quantity("output", "bytes", data + shards, "ledger and shards")
        yield Quantity("CPU seconds", "s", time.cpu_s, "of this process and its decode workers")
        yield Quantity("wall time", "s", time.wall_s, f"of it {time.fixed_s:.1f} s whatever there is to do")
        yield Quantity("CPU-hours", "h", hours, f"{self._num_workers()} CPUs as long as the run takes")
        note = "model workers hold their share of a card" if gpu_hours.value else "no GPU is used here"
        yield Quantity("GPU-hours", "h", gpu_hours, note)
        yield from priced(self._config.prices, hours, gpu_hours, terabytes)

    def _num_workers(self) -> int:
        return self._pilot.num_workers

    def _ledger_bytes(self) -> Estimate:
        """Bytes of rows, and what each unit's file has besides them."""
        found = ZERO
        for key, per_file in self._measured.per_file.items():
            rows = self._values(f"rows {key}" if key else "bytes ")
            kinds = {kind for kind in self._strata if rows[self._measured.kinds == kind].any()}
            num_files = sum(len(self._units[kind]) for kind in kinds)
            most = self._config.run.compact_files
            num_files = 1 if most is not None and num_files > most else num_files
            found += self._total(f"bytes {key}").scaled(1, num_files * per_file)
        return found

    def _shard_bytes(self) -> Estimate:
        rows = self._total("shard_bytes")
        if not rows.value:
            return rows
        per_file = self._config.shards.shard_bytes
        if self._measured.num_shards > FEW_SHARDS:  # they are cut by what rows take about
            per_file = self._values("shard_bytes").sum() / self._measured.num_shards
        num_files = math.ceil(rows.value / per_file)
        return rows.scaled(1, num_files * self._measured.per_shard)

    def _time(self) -> _Time:
        """Start-up and end as in the pilot, loading once for each worker, and the rest by sources."""
        metrics = self._pilot.result.metrics
        wall_s, cpu_s = ZERO, ZERO.scaled(0, self._pilot.driver_cpu_s)
        passes: dict[str, Estimate] = {}
        fixed_s = self._pilot.seconds
        for phase in dict.fromkeys(phase for phase, _ in metrics.spent_s):
            pool = metrics.pools.get(f"{phase}: {DECODE}", PoolMetrics())
            work_s, around_s = self._pass(phase, pool)
            fixed_s -= pool.pass_s - around_s
            passes[phase] = work_s.scaled(1, around_s)
            wall_s += work_s
            cpu_s += self._total(f"cpu {phase}").scaled(1, pool.load_cpu_s)
        fixed_s = max(0.0, fixed_s)
        return _Time(wall_s.scaled(1, fixed_s), cpu_s, passes, fixed_s)

    def _pass(self, phase: str, pool: PoolMetrics) -> tuple[Estimate, float]:
        """Seconds of a pass, in which its workers share the units; and seconds before and after that.

        The latter are those of the pilot's pass that its own units do not explain.
        """
        work = self._total(f"wall {phase}")
        num_workers = max(1, self._num_workers())
        pilot_workers = max(1, min(pool.num_workers, num_workers))
        units = self._drawn_units(f"wall {phase}")
        spread_s = makespan(units, pilot_workers)
        around_s = max(0.0, pool.pass_s - spread_s)
        if not work.value:
            return work, around_s
        all_s = makespan(self._all_units(f"wall {phase}"), num_workers)
        return work.scaled(all_s / work.value), around_s

    def _drawn_units(self, name: str) -> list[float]:
        """Seconds of each unit of the pilot."""
        run = self._pilot.result.pipeline.config.run
        values = self._measured.values.get(name, np.zeros(len(self._measured.sizes)))
        found: list[float] = []
        for kind in self._strata:
            mine = self._measured.kinds == kind
            found += _by_units(values[mine], new_units(kind, self._measured.sizes[mine], run))
        return found

    def _all_units(self, name: str) -> list[float]:
        """Seconds of each unit of the run, as far as sizes tell."""
        values = self._values(name)
        is_left = self._pilot.sources.needs_filters | name.endswith("enrich")
        found: list[float] = []
        for kind, stratum in self._strata.items():
            mine = values[self._measured.kinds == kind]
            by_number, by_size = stratum.scale(mine) if len(mine) else (0.0, 0.0)
            places = self._places[kind]
            mean = by_number * mine.sum() / stratum.number if by_number else 0.0
            rate = by_size * mine.sum() / max(1.0, stratum.total_size)
            seconds = (mean + rate * self._sizes[places]) * is_left[places]
            found += _by_units(seconds, self._units[kind])
        return found

    def _gpu_s(self, time: _Time) -> Estimate:
        """Cards that model workers and services of each pass hold, as long as it takes."""
        found = ZERO
        for name, pool in self._pilot.result.metrics.pools.items():
            phase = name.partition(": ")[0]
            if pool.gpu_s and phase in time.passes_s:
                found += time.passes_s[phase].scaled(pool.gpu_s / pool.pass_s)
        return found

    def _notes(self, time: _Time) -> Iterator[str]:
        together = [step.key for step in self._pilot.result.pipeline.steps() if step.is_dataset_wide]
        if together:
            yield (
                f"{', '.join(together)}: measured together over all samples, which a pilot is too small to "
                "show; of more samples more are alike, and their time is taken as that of the pilot"
            )
        if self._pilot.outlook.done.filtered.num_rows or any(
            step.present for step in self._pilot.outlook.steps
        ):
            yield (
                "the output holds rows already: counts are what is added; a source of which some filter "
                "is missing is taken as if all were"
            )
        if time.fixed_s > time.wall_s.value / 2:
            yield "start-up and end are most of the wall time"


def _by_units(seconds: Floats, units: Iterable[NDArray[np.int64]]) -> list[float]:
    """Sums over the places of each unit."""
    return [float(seconds[places].sum()) for places in units]


def makespan(units: Iterable[float], num_workers: int) -> float:
    """Seconds until all units are done, each by the worker that is free first."""
    free_at = [0.0] * num_workers
    for seconds in units:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def priced(
    prices: Prices, cpu_hours: Estimate, gpu_hours: Estimate, terabytes: Estimate
) -> Iterator[Quantity]:
    """What it costs, as far as prices are set."""
    known = [
        hours.scaled(price)
        for price, hours in ((prices.cpu_hour, cpu_hours), (prices.gpu_hour, gpu_hours))
        if price is not None
    ]
    lacking = [
        f"prices.{name} is not set"
        for name, price, amount in (
            ("cpu_hour", prices.cpu_hour, cpu_hours),
            ("gpu_hour", prices.gpu_hour, gpu_hours),
        )
        if price is None and amount.value
    ]
    if known:
        yield Quantity("price of the run", prices.currency, sum(known, ZERO), "; ".join(lacking))
    if prices.terabyte_month is not None:
        yield Quantity(
            "price of keeping it, a month", prices.currency, terabytes.scaled(prices.terabyte_month)
        )
