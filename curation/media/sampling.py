"""Which frames of a video are sure to be looked at, so that a decoder may leave out the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

ROUNDING_S = 1e-6


def step_at(pts_s: float, fps: float) -> int:
    """Number of the step of 1 / `fps` seconds that a time lies in; a step's first frame is its sample."""
    return math.floor((pts_s + ROUNDING_S) * fps)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a pass over a video looks at, as far as that is known beforehand.

    It only says what is cheap: a frame that was left out is decoded when somebody looks at it after all.

    Attributes:
        step_fps: The first frame of each step of 1 / `step_fps` seconds is looked at, and so are the other
            frames of a step if its first frame differs from the next step's. None: there are no steps.
        grid_fps: The frames on display at the times first frame + k / fps are looked at, for each of these.
        first_s: Time of the source's first frame; None if decoding begins there.
    """

    step_fps: float | None
    grid_fps: frozenset[float] = frozenset()
    first_s: float | None = None

    def is_certain(self, before_s: float, pts_s: float, after_s: float, first_s: float) -> bool:
        """Whether the frame at `pts_s`, between its neighbors, is looked at whatever it shows."""
        if self.step_fps and step_at(before_s, self.step_fps) != step_at(pts_s, self.step_fps):
            return True
        return any(_is_on_grid(pts_s - first_s, after_s - first_s, fps) for fps in self.grid_fps)


def _is_on_grid(start_s: float, end_s: float, fps: float) -> bool:
    """Whether a multiple of 1 / `fps` lies between, with some room on both sides for rounding."""
    return math.ceil((start_s - ROUNDING_S) * fps) <= (end_s + ROUNDING_S) * fps
