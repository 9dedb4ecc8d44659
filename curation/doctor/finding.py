"""One line of `curation doctor`: what was looked at, how it stands, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from curation.errors import CurationError, EnvironmentFault
from curation.errors.isolation import isolated

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """How one thing stands.

    Attributes:
        check: What was looked at.
        state: Whether a run can go on.
        text: What was found.
        advice: What to do; empty where nothing is to be done.
    """

    check: str
    state: State
    text: str
    advice: str = ""

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.check}: {self.state}: {self.text}" + (f"; {self.advice}" if self.advice else "")


Check = Callable[[], Iterable[Finding]]


def findings(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """What named checks find, one after the other; one that can't be made has failed."""
    for name, check in checks:
        try:
            with isolated(EnvironmentFault):
                found = list(check())
        except CurationError as error:
            found = [Finding(name, "failed", str(error))]
        yield from found
