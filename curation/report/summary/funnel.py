"""The funnel as text for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from curation.errors.visible import on_one_line
from curation.ingest.leftovers import some_names
from curation.ledger.columns import OUTCOMES
from curation.pipeline import Pipeline
from curation.report.summary.summary import StepSummary, Summary

UNTRAINED = "UNTRAINED stand-in models"
"""By these words a card is known to be that of stand-ins."""
_ANY_WIDTH = 10_000
"""More characters than a table of the funnel has in a line."""


def untrained_notice(pipeline: Pipeline) -> str | None:
    """What is said first wherever numbers are shown that stand-in models made; None if there are none."""
    if not pipeline.stand_ins:
        return None
    places = ", ".join(sorted({f"{model.step} ({model.role})" for model in pipeline.stand_ins}))
    return f"{UNTRAINED}: {places}. What they say means nothing."


def print_funnel(console: Console, pipeline: Pipeline, summary: Summary, *, with_notice: bool = True) -> None:
    """Print outcomes, then each step with its reasons; before them, what is said of stand-in models."""
    notice = untrained_notice(pipeline)
    if notice and with_notice:
        console.print(notice, style="bold red")
    console.print(_outcome_table(summary))
    _print_steps(console, pipeline, summary)
    if summary.kept_by:
        console.print(_branch_table(summary))
    if summary.gone:
        names = some_names(summary.gone_examples, summary.gone.total())
        console.print(f"gone from the inputs: {names}", highlight=False, markup=False)


def print_failures(console: Console, summary: Summary) -> None:
    """Print how many failed by each error, with a few examples."""
    for kind, number in summary.failed_by.most_common():
        examples = summary.failed_examples[kind]
        for failure in examples:
            console.print("failed", style="red", end=" ")
            console.print(on_one_line(f"{failure.uri} at {failure.step}: {kind}: {failure.error}"))
        if number > len(examples):
            more = number - len(examples)
            console.print(f"... and {more} more by {kind}; `curation table` has them all")


def _outcome_table(summary: Summary) -> Table:
    table = Table(title="Outcomes", title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for name in ("in", *OUTCOMES, *(["gone"] if summary.gone else [])):
        table.add_column(str(name), justify="right")
    gone = {f"{kind} sources": str(number) for kind, number in summary.gone.items()}
    for kind, counts in summary.outcome_totals().items():
        last = [gone.get(kind, "")] if gone else []
        table.add_row(kind, *(str(number) for number in counts.values()), *last)
    return table


def _print_steps(console: Console, pipeline: Pipeline, summary: Summary) -> None:
    """Print the steps; their reasons come below where the table would be too wide with them."""
    table = _step_table(pipeline, summary, with_reasons=True)
    if console.measure(table, options=console.options.update(width=_ANY_WIDTH)).maximum <= console.width:
        console.print(table)
        return
    console.print(_step_table(pipeline, summary, with_reasons=False))
    for key in dict.fromkeys(step.key for step in pipeline.steps()):
        if summary.steps[key].reasons:
            console.print(f"  {key}: {_reasons(summary.steps[key])}")


def _reasons(counts: StepSummary) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in counts.reasons.most_common())


def _step_table(pipeline: Pipeline, summary: Summary, *, with_reasons: bool) -> Table:
    table = Table(title="Funnel", title_justify="left", box=None, header_style="bold", pad_edge=False)
    steps = [summary.steps[key] for key in dict.fromkeys(step.key for step in pipeline.steps())]
    besides = {
        "to measure": any(counts.num_waiting for counts in steps),
        "not asked": any(counts.num_unasked for counts in steps),
    }
    shown = [name for name, is_there in besides.items() if is_there]
    table.add_column("step", no_wrap=True)
    for name in ("measured", "passed", "rejected", "failed", *shown):
        table.add_column(name, justify="right")
    if with_reasons:
        table.add_column("reasons", overflow="fold")
    for counts in steps:
        numbers = [counts.measured, *(counts.outcomes[outcome] for outcome in OUTCOMES[:3])]
        more = {"to measure": counts.num_waiting, "not asked": counts.num_unasked}
        numbers += [more[name] for name in shown]
        last = [_reasons(counts)] if with_reasons else []
        table.add_row(counts.key, *(str(number) for number in numbers), *last)
    return table


def _branch_table(summary: Summary) -> Table:
    table = Table(title="Branches", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in ("of", "rule", "branch"):
        table.add_column(name, overflow="fold")
    table.add_column("kept", justify="right")
    for (kind, rule), counts in summary.kept_by.items():
        for branch, number in counts.items():
            table.add_row(kind, rule, branch, str(number))
    return table
