"""Changes: what differs from the run before, and why something was measured again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curation.report.page.facts import Facts
from curation.report.summary.words import changed_keys, counted, shown


@dataclass(frozen=True)
class OutcomeChange:
    """How many samples or sources of a kind had an outcome before, and have it now."""

    kind: str
    outcome: str
    before: int
    now: int


def fill(facts: Facts) -> dict[str, Any] | None:
    """What the run before is compared in; None where there was none."""
    run, previous = facts.run, facts.run.get("previous")
    if not previous:
        return None
    groups = [
        ("Inputs", _source_lines(run.get("sources", {}))),
        ("Measured again", [item["text"] for item in run.get("measured_again", [])]),
        ("Thresholds", changed_keys(previous.get("thresholds", run["thresholds"]), run["thresholds"])),
        ("Settings", _setting_lines(run, previous)),
        ("Models", list(_model_lines(previous.get("models", []), run["models"]))),
        ("Versions", _version_lines(run, previous)),
    ]
    return {
        "before": previous.get("ended"),
        "now": run.get("ended"),
        "knows_outcomes": bool(previous.get("outcomes") and run.get("outcomes")),
        "outcomes": list(outcome_changes(previous.get("outcomes") or {}, run.get("outcomes") or {})),
        "groups": [(title, lines) for title, lines in groups if lines],
    }


def outcome_changes(
    before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]
) -> Iterator[OutcomeChange]:
    """The counts that differ."""
    for kind in [*now, *(kind for kind in before if kind not in now)]:
        was, has = before.get(kind, {}), now.get(kind, {})
        for outcome in [*has, *(name for name in was if name not in has)]:
            if was.get(outcome, 0) != has.get(outcome, 0):
                yield OutcomeChange(kind, outcome, was.get(outcome, 0), has.get(outcome, 0))


def _source_lines(sources: Mapping[str, int]) -> list[str]:
    words = {"new": "new in the inputs", "gone": "gone from the inputs"}
    return [f"{counted(sources[name], 'source')} {text}" for name, text in words.items() if sources.get(name)]


def _setting_lines(run: Mapping[str, Any], previous: Mapping[str, Any]) -> list[str]:
    """Settings besides thresholds, which have lines of their own."""
    thresholds = {f"{step}.{name}" for step, names in run["thresholds"].items() for name in names}
    thresholds |= {
        f"{step}.{name}" for step, names in previous.get("thresholds", {}).items() for name in names
    }
    lines = changed_keys(previous.get("config", {}), run["config"])
    return [line for line in lines if line.partition(" ")[0] not in thresholds]


def _model_lines(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> Iterator[str]:
    was = {(model["step"], model["role"]): model for model in before}
    has = {(model["step"], model["role"]): model for model in now}
    for key in [*has, *(key for key in was if key not in has)]:
        names = [_model_name(models.get(key)) for models in (was, has)]
        if names[0] != names[1]:
            yield f"{' '.join(key)}: {names[0]} -> {names[1]}"


def _model_name(model: Mapping[str, Any] | None) -> str:
    return "none" if model is None else f"{model['name']} {shown(model['revision'][:12])}"


def _version_lines(run: Mapping[str, Any], previous: Mapping[str, Any]) -> list[str]:
    before = {"curation": previous.get("curation"), **previous.get("versions", {})}
    return changed_keys(before, {"curation": run["curation"], **run["versions"]})
