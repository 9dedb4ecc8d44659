"""The thresholds that a sweep moves, and the values that they take.

axes = parse_axes(["images.aesthetic.min_score=4:6:0.25", "images.color.min_colorfulness=null,5"], pipeline)
for point in points_of(axes): ...
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation, localcontext

from curation.config.problems import checked
from curation.errors import ConfigError
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.registry import suggestion
from curation.stage import Threshold

MAX_POINTS = 10_000
"""Settings that a sweep evaluates, at most."""
_DIGITS = 700
"""Digits in which stops are added up: enough for any two numbers that a threshold can be."""

Value = float | int | None
"""What a threshold can be; None switches it off."""
Point = tuple[Value, ...]
"""A value for each axis, in their order."""


@dataclass(frozen=True)
class Axis:
    """A threshold, and the values that it takes.

    Attributes:
        step: The step as it is configured.
        name: The threshold among the step's settings.
        values: Each once, in the order in which they were asked for.
    """

    step: Step
    name: str
    values: Point

    @property
    def key(self) -> str:
        """The setting, such as `images.aesthetic.min_score`."""
        return f"{self.step.key}.{self.name}"

    @property
    def present(self) -> Value:
        """What it is now."""
        found: Value = getattr(self.step.stage.config, self.name)
        return found

    @property
    def mark(self) -> Threshold:
        """What it decides."""
        return self.step.stage.thresholds()[self.name]


def parse_axes(texts: Sequence[str], pipeline: Pipeline) -> list[Axis]:
    """Axes from `KEY=START:STOP:STEP` or `KEY=VALUE,VALUE,null`.

    Raises:
        ConfigError: a key is no threshold, the values are odd, or there are more than `MAX_POINTS` points.
    """
    named: dict[str, str] = {}
    for text in texts:
        key, separator, values = (part.strip() for part in text.partition("="))
        if not separator or not key or not values:
            raise ConfigError(f"{text}: must look like images.aesthetic.min_score=4:6:0.25")
        if key in named:
            raise ConfigError(f"{key} stands there twice; give all its values at once")
        named[key] = values
    found = [(*find_threshold(pipeline, key), _parse_stops(key, values)) for key, values in named.items()]
    number = math.prod(stops.number for _, _, stops in found)
    if number > MAX_POINTS:
        raise ConfigError(
            f"{' '.join(texts)}: {_rounded(number)} settings; a sweep takes {MAX_POINTS} at most"
        )
    axes = [Axis(step, name, stops.values()) for step, name, stops in found]
    for point in points_of(axes):
        steps_at(axes, point)
    return axes


def find_threshold(pipeline: Pipeline, key: str) -> tuple[Step, str]:
    """The step and the name of the threshold that a key such as `images.aesthetic.min_score` names.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    known = {
        f"{step.key}.{name}": (step, name) for step in pipeline.steps() for name in step.stage.thresholds()
    }
    if key in known:
        return known[key]
    if not known:
        raise ConfigError(f"{key}: this configuration has no thresholds")
    place, _, name = key.rpartition(".")
    step = pipeline.step_of(place)
    if step is not None and name in type(step.stage.config).known_keys():
        own = [f"{place}.{threshold}" for threshold in step.stage.thresholds()]
        hint = f"; {' and '.join(own)} can be" if own else ""
        raise ConfigError(f"{key} is no threshold, so it can't be moved without measuring again{hint}")
    raise ConfigError(f"{key}: there is no such threshold; {suggestion(key, known)}")


def points_of(axes: Sequence[Axis]) -> Iterator[Point]:
    """Every combination of values, the last axis fastest."""
    return itertools.product(*(axis.values for axis in axes))


def present_point(axes: Sequence[Axis]) -> Point:
    """The values that are configured."""
    return tuple(axis.present for axis in axes)


def steps_at(axes: Sequence[Axis], point: Point) -> dict[str, Step]:
    """Step key -> the step with the thresholds of a point, of the steps whose thresholds are moved.

    Raises:
        ConfigError: the step refuses these thresholds together.
    """
    changes: dict[str, dict[str, Value]] = {}
    for axis, value in zip(axes, point, strict=True):
        changes.setdefault(axis.step.key, {})[axis.name] = value
    steps = {axis.step.key: axis.step for axis in axes}
    return {key: with_thresholds(steps[key], values) for key, values in changes.items()}


def with_thresholds(step: Step, values: Mapping[str, Value]) -> Step:
    """The step with other thresholds: its fingerprint, and so its rows, stay.

    Raises:
        ConfigError: the step's settings don't allow these values.
    """
    settings = {**step.stage.config.model_dump(exclude_unset=True), **values}
    config = checked(type(step.stage.config), step.key, settings)
    return replace(step, stage=type(step.stage)(config))


@dataclass(frozen=True)
class Stops:
    """The numbers from `start` to `stop`, which counts where it is hit, in steps of `step`."""

    start: Decimal
    stop: Decimal
    step: Decimal

    @property
    def number(self) -> int:
        """How many there are."""
        with localcontext() as context:
            context.prec = _DIGITS
            return int((self.stop - self.start) / self.step) + 1

    def values(self) -> Point:
        """Each number, exactly as it would be written."""
        with localcontext() as context:
            context.prec = _DIGITS
            exact = [self.start + number * self.step for number in range(self.number)]
        return tuple(map(_plain, exact))


@dataclass(frozen=True)
class _Listed:
    """Values that were written out."""

    listed: Point

    @property
    def number(self) -> int:
        return len(self.listed)

    def values(self) -> Point:
        return self.listed


def _parse_stops(key: str, text: str) -> Stops | _Listed:
    if ":" not in text:
        return _Listed(tuple(dict.fromkeys(_parse_value(key, part.strip()) for part in text.split(","))))
    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 3:
        raise ConfigError(f"{key}={text}: a range is START:STOP:STEP, such as 4:6:0.25")
    start, stop, step = (_parse_number(key, part) for part in parts)
    if not step:
        raise ConfigError(f"{key}={text}: a step of 0 leads nowhere")
    if (stop - start) * step < 0:
        raise ConfigError(f"{key}={text}: a step of {parts[2]} does not lead from {parts[0]} to {parts[1]}")
    return Stops(start, stop, step)


def _parse_value(key: str, text: str) -> Value:
    return None if text == "null" else _plain(_parse_number(key, text))


def _parse_number(key: str, text: str) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation as error:
        raise ConfigError(f"{key}: {text!r} is no number") from error
    if not found.is_finite() or not math.isfinite(float(found)):
        raise ConfigError(f"{key}: {text} is no finite number")
    return found


def _plain(number: Decimal) -> float | int:
    return int(number) if number == number.to_integral_value() else float(number)


def _rounded(number: int) -> str:
    return str(number) if number < 10**7 else f"{Decimal(number):.1e}"
