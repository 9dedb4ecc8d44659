"""An outlook and a forecast as text for a terminal, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curation.estimate.forecast import Forecast, Quantity
from curation.estimate.outlook import Outlook, StepOutlook
from curation.estimate.ratio import LEVEL, Estimate
from curation.ingest.leftovers import some_names
from curation.report.summary.funnel import untrained_notice
from curation.report.summary.words import counted, data_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

UNKNOWN = "unknown until measured"
PILOT_SIZE = 200
"""Sources of the pilot that is proposed, where there are as many."""
_SHARDS = {
    "none": "shards: none are asked for",
    "current": "shards: they are there, as they should be",
    "anew": "shards: all of them would be written anew, from what is measured",
    "open": "shards: written once all is measured; anew if that changes what is kept",
}


def print_outlook(console: Console, outlook: Outlook, *, before_pilot: bool = False) -> None:
    """Print what a run would do; a pilot that follows tells of stand-ins by itself."""
    from rich.table import Table

    notice = untrained_notice(outlook.pipeline)
    if notice and not before_pilot:
        console.print(notice, style="bold red")
    for line in _source_lines(outlook):
        console.print(line)
    table = Table(
        title="What would be measured", title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    table.add_column("step", no_wrap=True)
    for name in ("there", "missing", "more, perhaps"):
        table.add_column(name, justify="right")
    table.add_column("models", overflow="fold")
    for step in outlook.steps:
        table.add_row(
            step.key, str(step.present), _missing(step), _more(step), ", ".join(dict.fromkeys(step.models))
        )
    console.print(table)
    for step in outlook.steps:
        if step.why_anew and step.is_open and not step.present:
            console.print(f"measured again: {step.key}: {step.why_anew}")
    console.print(_SHARDS[outlook.shards])
    if outlook.measures_nothing:
        console.print("nothing is missing: a run would open no media")
    elif any(step.at_most is None for step in outlook.steps):
        hint = "" if before_pilot else f"; `--pilot {_pilot_size(outlook)}` estimates it"
        console.print(f"what is {UNKNOWN} depends on samples that do not exist yet{hint}")


def _pilot_size(outlook: Outlook) -> int:
    """A pilot that may be asked for: no larger than the inputs, as far as they are listed."""
    num_listed = outlook.listing.sources.table.num_rows
    return PILOT_SIZE if outlook.unlisted else min(PILOT_SIZE, num_listed)


def outlook_record(outlook: Outlook) -> dict[str, Any]:
    """The outlook for JSON."""
    kinds = outlook.listing.sources.table["kind"].value_counts().to_pylist()
    return {
        "listed": {kind["values"]: kind["counts"] for kind in kinds},
        "containers_to_list": len(outlook.unlisted),
        "to_read": dict(outlook.fresh),
        "to_read_again": outlook.changed,
        "other_metadata": outlook.renewed,
        "gone": outlook.gone,
        "steps": [
            {
                "step": step.key,
                "of": step.counts,
                "there": step.present,
                "missing": step.waits,
                "at_most": step.at_most,
                "why_anew": step.why_anew,
                "models": list(step.models),
            }
            for step in outlook.steps
        ],
        "shards": outlook.shards,
        "nothing_missing": outlook.measures_nothing,
    }


def print_forecast(console: Console, forecast: Forecast) -> None:
    """Print what a run would take and give, each number with its interval."""
    from rich.table import Table

    console.print(
        f"Pilot: {forecast.num_drawn} of {forecast.num_sources} sources that are left, in "
        f"{forecast.pilot_s:.0f} s, with {forecast.num_workers} workers on this machine; its output is gone"
    )
    steps = Table(title="Steps", title_justify="left", box=None, header_style="bold", pad_edge=False)
    rest = Table(title="The run", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for table, first in ((steps, "step"), (rest, "")):
        table.add_column(first, no_wrap=True)
        for name in ("measured", "95 % interval") if first else ("estimate", "95 % interval"):
            table.add_column(name, justify="right")
    steps.add_column("pass rate", justify="right")
    steps.add_column("95 % interval", justify="right")
    rest.add_column("", overflow="fold")
    for step in forecast.steps:
        rate = _shown(step.pass_rate, percent) if step.pass_rate else ("", "")
        steps.add_row(step.key, *_shown(step.rows, amount), *rate)
    for quantity in forecast.quantities:
        rest.add_row(quantity.name, *_of_quantity(quantity), quantity.note)
    console.print(steps)
    console.print(rest)
    for note in forecast.notes:
        console.print(f"note: {note}")
    console.print(INTERVALS)


INTERVALS = (
    "An interval says where the number may lie, since other sources might have been drawn; it knows nothing "
    "of a machine that is busier than during the pilot."
)


def forecast_record(forecast: Forecast) -> dict[str, Any]:
    """The forecast for JSON."""
    return {
        "drawn": forecast.num_drawn,
        "sources": forecast.num_sources,
        "failed": forecast.num_failed,
        "workers": forecast.num_workers,
        "pilot_seconds": round(forecast.pilot_s, 3),
        "level": LEVEL,
        "steps": [
            {"step": step.key, "rows": _numbers(step.rows), "pass_rate": _numbers(step.pass_rate)}
            for step in forecast.steps
        ],
        "quantities": [
            {"name": one.name, "unit": one.unit, **(_numbers(one.estimate) or {}), "note": one.note}
            for one in forecast.quantities
        ],
        "notes": list(forecast.notes),
    }


def _numbers(estimate: Estimate | None) -> dict[str, float] | None:
    if estimate is None:
        return None
    low, high = estimate.interval()
    return {"estimate": estimate.value, "low": low, "high": high}


def _shown(estimate: Estimate, spell: Callable[[float], str]) -> tuple[str, str]:
    """The estimate and its interval as texts."""
    low, high = estimate.interval()
    return spell(estimate.value), f"{spell(low)} .. {spell(high)}"


def _of_quantity(quantity: Quantity) -> tuple[str, str]:
    if quantity.unit == "s":
        return _shown(quantity.estimate, duration)
    if quantity.unit == "bytes":
        return _shown(quantity.estimate, data_size)
    value, interval = _shown(quantity.estimate, amount)
    return f"{value} {quantity.unit}".rstrip(), interval


def amount(value: float) -> str:
    """A number in at most four digits, or whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share of 1; intervals of shares end at 1."""
    return f"{min(1.0, share):.1%}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def _source_lines(outlook: Outlook) -> list[str]:
    """What lies in the inputs, and what of it would be read."""
    total = len(outlook.listing.sources)
    lines = [f"{outlook.pipeline.config.general.name}: {total} sources"]
    if outlook.unlisted:
        names = some_names([container.uri for container in outlook.unlisted])
        size = data_size(sum(container.size_bytes for container in outlook.unlisted))
        lines.append(
            f"to list first: {counted(len(outlook.unlisted), 'container')} of {size} ({names}); what they "
            "hold is unknown until then"
        )
    fresh = ", ".join(f"{number} {kind}s" for kind, number in outlook.fresh.items())
    lines.append(f"to read for the first time: {fresh or 'none'}")
    for number, why in (
        (outlook.changed, "to read again, because their date is another one or they are tried again"),
        (outlook.renewed, "with other metadata than before, which is read again"),
        (outlook.gone, "gone from the inputs; what was measured of them is kept"),
    ):
        if number:
            lines.append(f"{number} sources {why}")
    return lines


def _missing(step: StepOutlook) -> str:
    return f"{step.waits} videos" if step.waits and step.counts == "videos" else str(step.waits)


def _more(step: StepOutlook) -> str:
    if step.at_most is None:
        return UNKNOWN
    more = step.at_most - step.waits
    return f"up to {more}" if more else ""
