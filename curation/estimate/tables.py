"""An outlook and a forecast as text for a terminal, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curation.estimate.outlook import Outlook, StepOutlook
from curation.ingest.leftovers import some_names
from curation.report.summary.funnel import untrained_notice

if TYPE_CHECKING:
    from rich.console import Console

UNKNOWN = "unknown until measured"
_SHARDS = {
    "none": "shards: none are asked for",
    "current": "shards: they are there, as they should be",
    "anew": "shards: all of them would be written anew, from what is measured",
    "open": "shards: written once all is measured; anew if that changes what is kept",
}


def print_outlook(console: Console, outlook: Outlook) -> None:
    """Print what a run would do."""
    from rich.table import Table

    notice = untrained_notice(outlook.pipeline)
    if notice:
        console.print(notice, style="bold red")
    for line in _source_lines(outlook):
        console.print(line)
    table = Table(
        title="What would be measured", title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    for name in ("step", "there", "missing", "more, perhaps"):
        table.add_column(name, justify="left" if name == "step" else "right")
    table.add_column("models")
    for step in outlook.steps:
        table.add_row(
            step.key, str(step.present), _missing(step), _more(step), ", ".join(dict.fromkeys(step.models))
        )
    console.print(table)
    anew = [step.key for step in outlook.steps if step.measures_anew and step.is_open]
    if anew:
        console.print(
            f"measured anew: {', '.join(anew)} (settings, version or models are others than at the last run)"
        )
    console.print(_SHARDS[outlook.shards])
    if outlook.measures_nothing:
        console.print("nothing is missing: a run would open no media")
    elif any(step.at_most is None for step in outlook.steps):
        console.print(
            f"what is {UNKNOWN} depends on samples that do not exist yet; `--pilot 200` estimates it"
        )


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
                "measured_anew": step.measures_anew,
                "models": list(step.models),
            }
            for step in outlook.steps
        ],
        "shards": outlook.shards,
        "nothing_missing": outlook.measures_nothing,
    }


def _source_lines(outlook: Outlook) -> list[str]:
    """What lies in the inputs, and what of it would be read."""
    total = len(outlook.listing.sources)
    lines = [f"{outlook.pipeline.config.general.name}: {total} sources"]
    if outlook.unlisted:
        names = some_names([container.uri for container in outlook.unlisted])
        size = sum(container.size_bytes for container in outlook.unlisted)
        lines.append(
            f"to list first: {len(outlook.unlisted)} containers of {size / 1e9:.3g} GB ({names}); what they "
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
