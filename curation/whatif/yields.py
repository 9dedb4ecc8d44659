"""The points of a sweep as a table: in a terminal, or flat, a row per point, for files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from curation.ledger.columns import OUTCOMES
from curation.ledger.unit_state import branch_steps
from curation.pipeline import Pipeline
from curation.pipeline.rules import steps_of
from curation.records import Outcome
from curation.whatif.axes import Value
from curation.whatif.sweep import PointYield, Sweep

MAX_SHOWN = 200
"""Points that a terminal shows, at most."""


def print_sweep(console: Console, pipeline: Pipeline, found: Sweep) -> None:
    """Print what each point keeps, and the yield of each step that differs between points."""
    rows = rows_of(found)
    title = "* is the present setting"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    columns = _columns_of(found, rows)
    for column in ["", *(axis.key for axis in found.axes), *columns]:
        table.add_column(column.replace(" ", "\n", 1), justify="right", overflow="fold")
    for row in rows[:MAX_SHOWN]:
        values = [_shown(row[axis.key]) for axis in found.axes]
        table.add_row("*" if row["present"] else "", *values, *(_amount(row, name) for name in columns))
    console.print(table)
    if len(rows) > MAX_SHOWN:
        console.print(f"... and {len(rows) - MAX_SHOWN} more settings; --to FILE.csv has them all")
    for line in _notes(pipeline, found):
        console.print(line)


def flat_table(found: Sweep) -> pa.Table:
    """A row per point: thresholds, outcomes, and for each step `KEY.measured`, `KEY.passed` and so on."""
    rows = rows_of(found)
    thresholds = [(axis.key, pa.float64()) for axis in found.axes]
    numbers = [
        (name, pa.float64() if name == "seconds" else pa.int64())
        for name in rows[0]
        if name not in {"present", *(axis.key for axis in found.axes)}
    ]
    return pa.Table.from_pylist(rows, pa.schema([*thresholds, ("present", pa.bool_()), *numbers]))


def rows_of(found: Sweep) -> list[dict[str, Any]]:
    """The points in order, the present one first where it is none of them."""
    present = found.present.point
    points = list(found.points)
    if all(at.point != present for at in points):
        points.insert(0, found.present)
    return [_row(found, at, is_present=at.point == present) for at in points]


def sweep_json(pipeline: Pipeline, found: Sweep) -> str:
    """The points as JSON, with the models of each step."""
    record = {
        "thresholds": {axis.key: axis.present for axis in found.axes},
        "points": rows_of(found),
        "models": models_by_step(pipeline),
        "notes": list(_notes(pipeline, found)),
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def models_by_step(pipeline: Pipeline) -> dict[str, list[str]]:
    """Step key -> the names of its models, each once, of the steps that have some."""
    found: dict[str, list[str]] = {}
    for model in pipeline.models:
        name = f"{model.name} (untrained)" if model.stand_in else model.name
        names = found.setdefault(model.step, [])
        if name not in names:
            names.append(name)
    return found


def _row(found: Sweep, at: PointYield, *, is_present: bool) -> dict[str, Any]:
    row: dict[str, Any] = {axis.key: value for axis, value in zip(found.axes, at.point, strict=True)}
    row["present"] = is_present
    for kind, counts in at.outcomes.items():
        row |= {f"{kind} {outcome}": counts[outcome] for outcome in OUTCOMES}
    row |= {"windows kept": at.num_windows, "seconds": round(at.seconds, 3), "vision tokens": at.tokens}
    for key, step in at.steps.items():
        row |= {
            f"{key} measured": step.num_measured,
            f"{key} passed": step.num_passed,
            f"{key} rejected": step.num_rejected,
            f"{key} failed": step.num_failed,
            f"{key} to measure": step.num_waiting,
        }
    return row


def _columns_of(found: Sweep, rows: list[dict[str, Any]]) -> list[str]:
    """What a terminal shows of the points: how much is kept, and of the steps whatever differs."""
    kinds = list(found.present.outcomes)
    always = [f"{kind} {Outcome.KEPT}" for kind in kinds]
    wanted = [f"{kind} {outcome}" for kind in kinds for outcome in OUTCOMES[1:]]
    wanted += ["windows kept", "seconds", "vision tokens"]
    wanted += [f"{key} {what}" for key in found.present.steps for what in ("passed", "to measure")]
    return [*always, *(name for name in wanted if len({row[name] for row in rows}) > 1)]


def _notes(pipeline: Pipeline, found: Sweep) -> Iterator[str]:
    """What has to be known of the numbers besides."""
    most = {
        key: max(at.steps[key].num_waiting for at in (found.present, *found.points))
        for key in found.present.steps
    }
    models = models_by_step(pipeline)
    for key, number in most.items():
        if number:
            by = f" by {', '.join(models[key])}" if key in models else ""
            behind = [
                f"{each} by {', '.join(models[each])}" for each in _behind(pipeline, key) if each in models
            ]
            then = f"; what passes then comes to {', '.join(behind)}" if behind else ""
            yield f"{key}: up to {number} would have to be measured first{by}{then}"
    for key in found.populations_differ:
        yield (
            f"{key}: looks at all samples together; where others come to it, it has to look again, and until "
            "then they are pending"
        )


def _behind(pipeline: Pipeline, key: str) -> list[str]:
    """The steps that a sample comes to after a step, if it passes; each once."""
    found: dict[str, None] = {}
    for branch in pipeline.branches.values():
        keys = [step.key for step in (*branch_steps(branch), *steps_of(pipeline.enrich))]
        if key in keys:
            found |= dict.fromkeys(keys[keys.index(key) + 1 :])
    return list(found)


def _shown(value: Value) -> str:
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _amount(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:,.1f}" if name == "seconds" else f"{row[name]:,}"
