"""What `curation compare` compares: an output, a configuration, or changes to one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from curation.config import Config
from curation.execution.run import open_pipeline
from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.pipeline.decision import Decision

_NEXT_SETTING = re.compile(r",(?=[A-Za-z_][\w.]*=)")
"""A comma before another KEY=VALUE, and not one inside of a value."""


@dataclass(frozen=True)
class ComparedSide:
    """One of two.

    Attributes:
        name: As the person who asked wrote it.
    """

    name: str
    pipeline: Pipeline
    ledger: Ledger

    @staticmethod
    def of(name: str, config: Config) -> ComparedSide:
        """The output of a configuration, decided as the configuration says.

        Raises:
            ConfigError: no run has been there.
        """
        return ComparedSide(name, *open_pipeline(config))


def is_setting(text: str) -> bool:
    """Whether it is KEY=VALUE rather than a file or a folder."""
    return re.match(r"[A-Za-z_][\w.]*=", text) is not None


def settings_in(text: str) -> list[str]:
    """The single settings of `KEY=VALUE,KEY=VALUE`."""
    return _NEXT_SETTING.split(text)


def measured_otherwise(before: ComparedSide, after: ComparedSide) -> Iterator[str]:
    """Which steps are in one alone or made their numbers otherwise, a sentence each."""
    steps = [{step.key: step for step in side.pipeline.steps()} for side in (before, after)]
    for key in dict.fromkeys([*steps[0], *steps[1]]):
        if key not in steps[0] or key not in steps[1]:
            only = before.name if key in steps[0] else after.name
            yield f"{key} is in {only} alone"
            continue
        one, other = (found[key] for found in steps)
        if one.fingerprint == other.fingerprint:
            continue
        if one.is_dataset_wide:
            yield f"{key} looked at other samples, or was measured otherwise"
            continue
        models = [side.pipeline.revisions(step) for side, step in ((before, one), (after, other))]
        what = "by other models" if models[0] != models[1] else "with other settings, or by another version"
        yield f"{key} was measured {what}, so its numbers differ"


def decided_differently(before: ComparedSide, after: ComparedSide) -> Iterator[str]:
    """The settings that decide otherwise, such as `images.aesthetic.min_score: 5.5 -> 5.2`."""
    one, other = (Decision.of(side.pipeline.config).settings for side in (before, after))
    for key in dict.fromkeys([*one, *other]):
        if one.get(key) != other.get(key):
            yield f"{key}: {one.get(key)} -> {other.get(key)}"
