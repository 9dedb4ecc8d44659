"""A comparison as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from curation.errors.visible import on_one_line
from curation.ledger.columns import OUTCOMES
from curation.whatif.compare import ABSENT, Comparison
from curation.whatif.sides import decided_differently, measured_otherwise

_NAMES = (*map(str, OUTCOMES), ABSENT)


def print_comparison(console: Console, found: Comparison, shared: Sequence[str] = ()) -> None:
    """Print what differs between the sides, how samples end on both, and each change with examples.

    `shared` are settings that replace those of both sides.
    """
    console.print(f"before: {found.before.name}")
    console.print(f"after:  {found.after.name}")
    if shared:
        console.print(f"both:   {' '.join(shared)}")
    for line in (
        *decided_differently(found.before, found.after),
        *measured_otherwise(found.before, found.after),
    ):
        console.print(f"  {line}")
    console.print(_cross_table(found))
    for line in (*_whole_clips(found), *_one_sided(found)):
        console.print(line)
    if not found.changes:
        console.print("nothing ends otherwise")
    for change, number in found.changes.most_common():
        console.print(f"{number} {change.before} -> {change.after}")
        for example in found.examples[change]:
            console.print(on_one_line(f"    {example}"))


def _cross_table(found: Comparison) -> Table:
    title = "Samples, and sources without any: before down, after across"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    after = [name for name in _NAMES if any(pair[1] == name for pair in found.outcomes)]
    table.add_column("")
    for name in after:
        table.add_column(name, justify="right")
    for name in _NAMES:
        if any(pair[0] == name for pair in found.outcomes):
            table.add_row(name, *(f"{found.outcomes[name, other]:,}" for other in after))
    return table


def _whole_clips(found: Comparison) -> list[str]:
    """Why the numbers are lower than those of a summary."""
    if not any(found.num_windows):
        return []
    before, after = (f"{number:,}" for number in found.num_windows)
    of_each = before if before == after else f"{before} before, {after} after"
    return [f"a clip that is captioned in windows counts once here, and in status by its windows: {of_each}"]


def _one_sided(found: Comparison) -> list[str]:
    alone = {
        found.before.name: sum(n for (_, after), n in found.outcomes.items() if after == ABSENT),
        found.after.name: sum(n for (before, _), n in found.outcomes.items() if before == ABSENT),
    }
    lines = [f"{number:,} are in {name} alone" for name, number in alone.items() if number]
    if found.outcomes and sum(alone.values()) == found.outcomes.total():
        lines.append(
            "nothing is in both: a source is known by its path as the configuration's input spells it"
        )
    return lines
