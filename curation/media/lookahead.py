"""Plans which packets of a video must be decoded, by looking at the packets that follow."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from curation.media.sampling import Sampling, step_at

_MAX_WAITING = 600
_MAX_WAITING_BYTES = 64 * 2**20
"""Packets that are held until it is known what follows them."""
_PAST = 64
"""Times before the present packet that are remembered."""
_BUSY_STEPS = 2
"""So many steps after one that was looked at closely are decoded whole: the pictures of the next one have
partly been sent to the decoder before that is known.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of one packet.

    Attributes:
        is_certain: Somebody will look at its frame.
        in_full: Its picture is decoded even if no other refers to it.
        is_odd: It has no times, or those of another packet.
    """

    packet: Any
    is_certain: bool
    in_full: bool
    is_odd: bool = False


class Lookahead:
    """Gives packets in their order, each when enough of those behind it are known to plan for it.

    The frames of a step will be looked at closely, in all likelihood, if a key frame that breaks the rhythm
    of key frames or a packet nearly as large as a key frame lies in it, as encoders have them at cuts, and
    if the steps before it were.
    """

    def __init__(self, packets: Iterator[Any], stream: Any, sampling: Sampling) -> None:
        self._packets = packets
        self._time_base = stream.time_base
        self._interval_s = float(1 / stream.average_rate) if stream.average_rate else 0.04
        self._sampling = sampling
        self._first_s = sampling.first_s
        self._waiting: deque[Any] = deque()
        self._waiting_bytes = 0
        self._times_s: list[float] = []
        self._seen_until_s = float("-inf")
        self._has_ended = False
        self._lively: set[int] = set()
        self._keys = _KeyFrames()

    def __iter__(self) -> Iterator[Plan]:
        """Plans of all packets.

        Raises:
            av.FFmpegError, ValueError: no further packet can be read; after the plans of those before.
        """
        import av

        failure: Exception | None = None
        while not self._has_ended:
            try:
                packet = next(self._packets, None)
            except (av.FFmpegError, ValueError) as error:
                packet, failure = None, error
            self._add(packet)
            while self._waiting and self._is_clear(self._waiting[0]):
                packet = self._waiting.popleft()
                self._waiting_bytes -= packet.size
                yield self._plan(packet)
        if failure is not None:
            raise failure

    def looked_at_closely(self, pts: int) -> None:
        """Somebody looked at a frame that was not certain to be looked at."""
        if self._sampling.step_fps:
            step = step_at(self._seconds(pts), self._sampling.step_fps)
            self._lively.update(range(step + 1, step + 1 + _BUSY_STEPS))

    def _seconds(self, ticks: int) -> float:
        return float(ticks * self._time_base)

    def _add(self, packet: Any) -> None:
        if packet is None:
            self._has_ended = True
            return
        self._waiting.append(packet)
        self._waiting_bytes += packet.size
        if packet.pts is None or packet.dts is None:
            return
        pts_s = self._seconds(packet.pts)
        bisect.insort(self._times_s, pts_s)
        self._seen_until_s = max(self._seen_until_s, self._seconds(packet.dts))
        if self._sampling.step_fps and self._keys.is_unusual(packet):
            # A cut may lie right before this frame, between it and the last one of the step before.
            for time_s in (pts_s, pts_s - 1.5 * self._interval_s):
                self._lively.add(step_at(time_s, self._sampling.step_fps))

    def _is_clear(self, packet: Any) -> bool:
        is_full = len(self._waiting) > _MAX_WAITING or self._waiting_bytes > _MAX_WAITING_BYTES
        if self._has_ended or is_full or packet.pts is None or packet.dts is None:
            return True
        until_s = self._seconds(packet.pts)
        if self._sampling.step_fps:
            until_s = (step_at(until_s, self._sampling.step_fps) + 1) / self._sampling.step_fps
        return self._seen_until_s > until_s + 2 * self._interval_s

    def _plan(self, packet: Any) -> Plan:
        if packet.pts is None or packet.dts is None:
            is_end = packet.size == 0
            return Plan(packet, is_certain=True, in_full=True, is_odd=not is_end)
        pts_s = self._seconds(packet.pts)
        at = bisect.bisect_left(self._times_s, pts_s)
        behind = at + 1 < len(self._times_s)
        before_s = self._times_s[at - 1] if at else float("-1e9")
        after_s = self._times_s[at + 1] if behind else pts_s + self._interval_s
        if self._first_s is None:
            self._first_s = self._times_s[0]
        is_certain = not behind or self._sampling.is_certain(before_s, pts_s, after_s, self._first_s)
        in_full = is_certain or packet.is_corrupt or self._is_lively(pts_s)
        is_odd = after_s == pts_s  # one picture could not be told from the other
        del self._times_s[: max(0, at - _PAST)]
        return Plan(packet, is_certain, in_full, is_odd)

    def _is_lively(self, pts_s: float) -> bool:
        if not self._sampling.step_fps:
            return False
        step = step_at(pts_s, self._sampling.step_fps)
        # What the last step holds may be asked for when there is nothing more to decode.
        is_last = self._has_ended and step == step_at(self._times_s[-1], self._sampling.step_fps)
        return is_last or step in self._lively


class _KeyFrames:
    """Knows the usual distances between key frames, and the size of the largest packet since the last one."""

    def __init__(self) -> None:
        self._distances: set[int] = set()
        self._since = 0
        self._size = 0

    def is_unusual(self, packet: Any) -> bool:
        """Whether this packet may begin a scene: a key frame out of turn, or another one half as large."""
        largest, self._since = self._size, self._since + 1
        if not packet.is_keyframe:
            self._size = max(largest, packet.size)
            return bool(packet.size * 2 > largest)
        distance, self._since, self._size = self._since, 0, packet.size
        is_known = bool(self._distances & {distance - 1, distance, distance + 1})
        self._distances.add(distance)
        return largest > 0 and not is_known
