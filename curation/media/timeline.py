"""One rising timeline for a video whose clock jumps: `timeline_of` its packets' time stamps.

Recordings joined with `cat` begin their clock again, and a broken broadcast leaves minutes without a
frame. Wherever that happens, the time goes on from the end of the last frame, as it does in what
`ffmpeg` makes of such a transport stream: the length of the timeline is the time in which frames are
shown. A video whose clock never jumps keeps its own times.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

MAX_GAP_S = 10.0
"""A longer step forward is a gap: the limit at which FFmpeg mends one (`-dts_delta_threshold`)."""
MIN_GAP_FRAMES = 10
"""But not one of fewer frames than this at the usual pace: a slide may stay for a minute."""
REORDERED_PACKETS = 16
"""So many packets in a row may be shown before an earlier one: H.264 and HEVC hold back 16 pictures."""
JITTER_PACKETS = 2
"""So many packets in a row may be decoded before an earlier one: none should be, but some are."""
_UNKNOWN = -(2**63)
"""FFmpeg's AV_NOPTS_VALUE."""


class TimeStamps:
    """Time stamps of the packets of one stream in the order of the file, in ticks of its time base."""

    def __init__(self) -> None:
        # 16 bytes a packet: a recording of ten hours has two million of them.
        self._pts = array("q")
        self._dts = array("q")

    def add(self, pts: int | None, dts: int | None) -> None:
        """The next packet's presentation and decoding time."""
        self._pts.append(_UNKNOWN if pts is None else pts)
        self._dts.append(_UNKNOWN if dts is None else dts)

    def shown(self) -> Iterator[tuple[int, int]]:
        """Number and presentation time of the packets that have one."""
        return ((number, pts) for number, pts in enumerate(self._pts) if pts != _UNKNOWN)

    def decoded(self) -> Iterator[tuple[int, int]]:
        """Number and decoding time, or else presentation time, of the packets that have one."""
        for number, (pts, dts) in enumerate(zip(self._pts, self._dts, strict=True)):
            if dts != _UNKNOWN or pts != _UNKNOWN:
                yield number, pts if dts == _UNKNOWN else dts


@dataclass(frozen=True, slots=True)
class _ClockRun:
    """Packets between two places where the clock falls back.

    Attributes:
        first_packet: Number of its first packet.
        lasts: The last presentation time before each gap, and that of the run, rising.
        shifts: Ticks to add to times up to each of `lasts`.
    """

    first_packet: int
    lasts: tuple[int, ...]
    shifts: tuple[int, ...]

    def moved(self, ticks: int) -> int:
        # A decoding time may lie in the gap before its frame, or behind the last frame of the run.
        return ticks + self.shifts[min(bisect_left(self.lasts, ticks), len(self.shifts) - 1)]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where the times of each packet lie once they rise from the first frame to the last.

    Attributes:
        joints: When the first frame behind each discontinuity is shown, in ticks, rising.
    """

    time_base: Fraction
    runs: tuple[_ClockRun, ...]
    joints: tuple[int, ...]

    @property
    def joints_s(self) -> list[float]:
        """`joints` in seconds."""
        return [float(ticks * self.time_base) for ticks in self.joints]

    def moved(self, number: int, ticks: int | None) -> int | None:
        """A time of the packet of this number, on the timeline."""
        if ticks is None or not self.runs:
            return ticks
        run = bisect_right(self.runs, number, key=lambda run: run.first_packet) - 1
        return self.runs[max(run, 0)].moved(ticks)

    def times(self, stamps: TimeStamps) -> list[int]:
        """When the frames are shown, in order."""
        if not self.joints:
            return sorted(pts for _, pts in stamps.shown())
        return sorted(moved for item in stamps.shown() if (moved := self.moved(*item)) is not None)


def timeline_of(stamps: TimeStamps, time_base: Fraction, *, has_own_dts: bool) -> Timeline:
    """Find the discontinuities among a stream's time stamps, and lay its recordings end to end.

    `has_own_dts`: the container stores decoding times, so that they rise wherever its clock does.
    Elsewhere FFmpeg makes them up, and they are of no use where the clock jumps.
    """
    usual = _usual_step(ticks for _, ticks in stamps.decoded()) or max(1, round(Fraction(1, 25) / time_base))
    if has_own_dts:
        firsts = _fall_backs(stamps.decoded(), JITTER_PACKETS)
    else:
        firsts = _fall_backs(stamps.shown(), REORDERED_PACKETS)
    longest = round(Fraction(MAX_GAP_S) / time_base)
    runs: list[_ClockRun] = []
    joints: list[int] = []
    end: int | None = None
    for first, times in _by_run(stamps, firsts):
        lasts, shifts = [], []
        for stretch in _between_gaps(times, max(longest, MIN_GAP_FRAMES * (_usual_step(times) or usual))):
            begin = stretch[0] if end is None else end
            if end is not None:
                joints.append(begin)
            lasts.append(stretch[-1])
            shifts.append(begin - stretch[0])
            end = stretch[-1] + shifts[-1] + (_usual_step(stretch) or usual)
        runs.append(_ClockRun(first, tuple(lasts), tuple(shifts)))
    return Timeline(time_base, tuple(runs), tuple(joints))


def _usual_step(times: Iterable[int]) -> int:
    """The median of the steps forward; 0 if there is none."""
    steps = sorted(after - before for before, after in pairwise(times) if after > before)
    return median_low(steps) if steps else 0


def _fall_backs(times: Iterable[tuple[int, int]], tolerated: int) -> list[int]:
    """The first packet, and those with which the clock begins again: more than `tolerated` in a row are
    behind an earlier one. The last of what was before may be among them, so the deepest fall decides.
    """
    firsts: list[int] = []
    behind: list[tuple[int, int]] = []
    latest = -math.inf
    for number, ticks in times:
        if not firsts:
            firsts.append(number)
        if ticks >= latest:
            latest = ticks
            behind = [(number, ticks)]
            continue
        behind.append((number, ticks))
        if len(behind) - 1 > tolerated:
            falls = [after[1] - before[1] for before, after in pairwise(behind)]
            begun = behind[falls.index(min(falls)) + 1 :]
            firsts.append(begun[0][0])
            latest, behind = max(ticks for _, ticks in begun), begun[-1:]
    return firsts


def _by_run(stamps: TimeStamps, firsts: list[int]) -> Iterator[tuple[int, list[int]]]:
    """The first packet and the presentation times, in order, of each run that has any."""
    runs: list[list[int]] = [[] for _ in firsts]
    for number, pts in stamps.shown():
        runs[max(bisect_right(firsts, number) - 1, 0)].append(pts)
    return ((first, sorted(times)) for first, times in zip(firsts, runs, strict=True) if times)


def _between_gaps(times: list[int], longest: int) -> Iterator[list[int]]:
    """Stretches of times with no step of more than `longest`."""
    begin = 0
    for number, (before, after) in enumerate(pairwise(times), start=1):
        if after - before > longest:
            yield times[begin:number]
            begin = number
    yield times[begin:]
