"""The last work: rows, time and throughput of each stage and kind of worker, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curation.config.config import Prices
from curation.report.page.facts import Facts
from curation.report.summary.words import data_size

Pool = Mapping[str, Any]
HOUR_S = 3600.0
TERABYTE = 1e12


@dataclass(frozen=True)
class Cost:
    """One item of what a run cost: what was used, at which price, and the amount."""

    what: str
    used: str
    price: str
    amount: str


def fill(facts: Facts) -> dict[str, Any] | None:
    """What the last run that measured something did; None before the first one."""
    work = facts.run["last_work"]
    if not work:
        return None
    columns = [(name, show) for name, show in _POOL_COLUMNS if any(show(pool) for pool in work["pools"])]
    return {
        "work": work,
        "command": facts.run.get("command"),
        "host": facts.run.get("host"),
        "pool_columns": [name for name, _ in columns],
        "pools": [(pool["pool"], [show(pool) for _, show in columns]) for pool in work["pools"]],
        "waits": any(_waited_s(pool) for pool in work["pools"]),
        "costs": list(costs(work, facts.pipeline.config.prices)),
    }


def costs(work: Mapping[str, Any], prices: Prices) -> Iterator[Cost]:
    """What the run and its output cost, as far as prices are known and it is known what was used."""
    money = prices.currency
    cpu_hours = work["seconds"] * work.get("cpus", 0) / HOUR_S
    gpu_hours = work.get("gpu_s", 0.0) / HOUR_S
    if prices.cpu_hour is not None and cpu_hours:
        price = f"{prices.cpu_hour:g} {money} an hour"
        yield Cost("CPU cores", f"{cpu_hours:.3g} hours", price, amount(cpu_hours * prices.cpu_hour, money))
    if prices.gpu_hour is not None and gpu_hours:
        price = f"{prices.gpu_hour:g} {money} an hour"
        yield Cost("GPUs", f"{gpu_hours:.3g} hours", price, amount(gpu_hours * prices.gpu_hour, money))
    output_bytes = work.get("output_bytes")
    if prices.terabyte_month is not None and output_bytes is not None:
        price = f"{prices.terabyte_month:g} {money} for 1 TB"
        monthly = output_bytes / TERABYTE * prices.terabyte_month
        yield Cost("output, each month", data_size(output_bytes), price, amount(monthly, money))


def amount(number: float, currency: str) -> str:
    """An amount of money to the hundredth."""
    return f"{number:,.2f} {currency}" if number >= 0.01 or not number else f"under 0.01 {currency}"


def _share(name: str) -> Callable[[Pool], str]:
    """Part of the time of all workers of a pool."""

    def show(pool: Pool) -> str:
        seconds = {**pool, "waited_s": _waited_s(pool)}
        total = sum(seconds[part] for part in ("load_s", "busy_s", "waited_s", "idle_s"))
        return f"{100 * seconds[name] / total:.0f} %" if total and seconds[name] else ""

    return show


def _waited_s(pool: Pool) -> float:
    """Of decode workers; of model workers it is the time in which others waited for them."""
    return 0.0 if pool["bytes_sent"] else float(pool["waited_s"])


_POOL_COLUMNS: tuple[tuple[str, Callable[[Pool], str]], ...] = (
    ("number", lambda pool: str(pool["num_workers"] or "")),
    ("nodes", lambda pool: str(len(pool["nodes"])) if len(pool["nodes"]) > 1 else ""),
    ("loading", lambda pool: f"{pool['load_s']:.1f} s" if pool["load_s"] else ""),
    ("busy", _share("busy_s")),
    ("waiting", _share("waited_s")),
    ("idle", _share("idle_s")),
    ("calls", lambda pool: str(pool["num_calls"] or "")),
    (
        "samples a call",
        lambda pool: f"{pool['num_samples'] / pool['num_calls']:.1f}" if pool["num_samples"] else "",
    ),
    ("sent", lambda pool: data_size(pool["bytes_sent"]) if pool["bytes_sent"] else ""),
    (
        "most in flight",
        lambda pool: data_size(pool["most_bytes_out"]) if pool["most_bytes_out"] else "",
    ),
    (
        "GPU memory",
        lambda pool: data_size(pool["peak_memory_bytes"]) if pool["peak_memory_bytes"] else "",
    ),
)
"""Columns of the table of workers; those that say nothing of any pool are left out."""
