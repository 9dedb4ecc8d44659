"""What the page's sliders work on: rules, thresholds with their stops, cells of the joint distribution."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from curation.ledger.columns import OUTCOMES
from curation.pipeline import Pipeline
from curation.pipeline.rules import AllOf, Rule, Step, steps_of
from curation.records import SourceKind
from curation.report.joint.joint import Joint
from curation.stage import KeepFar, KeepMin, Threshold

SAMPLES_OF = {"image": "images", "video": "clips"}


@dataclass(frozen=True)
class Slider:
    """A threshold that can be moved in the page.

    Attributes:
        key: Its place in the configuration, such as `images.aesthetic.min_score`.
        step: Key of its step.
        column: What it looks at.
        sign: How a value is compared with it, for people.
        mode: "min", "max", or "far", which keeps samples without a number as well.
        value: Where it stands; None where it is off.
        can_be_off: Whether the configuration takes null.
        stops: Where it may stand, in ascending order; its present value is one of them.
        meaning: What the column says.
    """

    key: str
    step: str
    column: str
    sign: str
    mode: str
    value: float | None
    can_be_off: bool
    stops: list[float]
    meaning: str

    @property
    def signal(self) -> str:
        """Its name in a chart."""
        return "at_" + "".join(letter if letter.isalnum() else "_" for letter in self.key)


def sliders_of(pipeline: Pipeline, kind: SourceKind, joint: Joint) -> list[Slider]:
    """The thresholds of a kind's rule that have at least two stops."""
    columns = {(column.step, column.column): column for column in joint.columns}
    found = []
    for step in _steps(joint.rule):
        for name, mark in step.stage.thresholds().items():
            stops = _as_configured(step, name, columns[step.key, mark.column].stops.tolist())
            if len(stops) > 1:
                found.append(_slider(step, name, mark, stops))
    return found


def _slider(step: Step, name: str, mark: Threshold, stops: list[float]) -> Slider:
    mode = "far" if isinstance(mark, KeepFar) else "min" if isinstance(mark, KeepMin) else "max"
    return Slider(
        key=f"{step.key}.{name}",
        step=step.key,
        column=mark.column,
        sign=mark.sign,
        mode=mode,
        value=getattr(step.stage.config, name),
        can_be_off=type(None) in get_args(type(step.stage.config).model_fields[name].annotation),
        stops=stops,
        meaning=step.stage.columns[mark.column].meaning,
    )


def _as_configured(step: Step, name: str, stops: list[float]) -> list[float]:
    """The stops that the configuration takes for a threshold: in its range, and whole where it wants that."""
    field = type(step.stage.config).model_fields[name]
    kind: Any = Annotated[field.annotation, Field(), *field.metadata]
    accepted = TypeAdapter(kind)
    found = []
    for stop in stops:
        value = int(stop) if stop.is_integer() else stop
        try:
            accepted.validate_python(value, strict=True)
        except ValidationError:
            continue
        found.append(value)
    return found


def steering_data(pipeline: Pipeline, joints: Mapping[SourceKind, Joint]) -> list[dict[str, Any]]:
    """Per kind of source with samples, all that the page's script needs, as JSON."""
    return [_kind_data(pipeline, kind, joint) for kind, joint in joints.items()]


def _kind_data(pipeline: Pipeline, kind: SourceKind, joint: Joint) -> dict[str, Any]:
    steps = _steps(joint.rule)
    places = {step.key: place for place, step in enumerate(steps)}
    columns = [(column.step, column.column) for column in joint.columns]
    return {
        "kind": kind,
        "samples": SAMPLES_OF[kind],
        "rule": _rule_data(joint.rule, places),
        "steps": [
            {
                "key": step.key,
                "wide": step.is_dataset_wide,
                "column": [key for key, _ in columns].index(step.key),
            }
            for step in steps
        ],
        "thresholds": [
            {
                "key": slider.key,
                "step": places[slider.step],
                "column": columns.index((slider.step, slider.column)),
                "mode": slider.mode,
                "value": slider.value,
                "stops": slider.stops,
                "signal": slider.signal,
            }
            for slider in sliders_of(pipeline, kind, joint)
        ],
        "columns": [
            {"stops": column.stops.tolist(), "codes": _packed(column.codes)} for column in joint.columns
        ],
        "ends": _packed(joint.ends),
        "outcomes": [outcome.value for outcome in OUTCOMES],
        "enrich": list(joint.enrich),
        "leaves": joint.leaves.tolist(),
        "wholes": joint.samples.tolist(),
    }


def _rule_data(rule: Rule, places: Mapping[str, int]) -> dict[str, Any]:
    if isinstance(rule, Step):
        return {"step": places[rule.key]}
    name = "all" if isinstance(rule, AllOf) else "any"
    return {name: [_rule_data(part, places) for part in rule.rules]}


def _steps(rule: Rule) -> list[Step]:
    """The steps of a rule, each once."""
    return list({step.key: step for step in steps_of(rule)}.values())


def _packed(codes: NDArray[np.uint8]) -> str:
    return base64.b64encode(codes.tobytes()).decode()
