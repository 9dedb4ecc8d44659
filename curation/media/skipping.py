"""Decodes a video without the pictures that nobody looks at and no other picture refers to.

Every frame is given, in order and with its time, but some only come with a promise: when somebody looks
at one, the decoder goes back to the key frame before it and decodes it after all. What is shown is
the same either way, as pictures that no other refers to change no other.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from curation.media.lookahead import Lookahead, Plan
from curation.media.sampling import Sampling

if TYPE_CHECKING:
    from curation.media.frame import Frame

_INTRA = 1
"""FFmpeg's type of a picture that refers to no other."""
_START = -(2**62)
_ALLOWANCE = 300
"""Pictures that may be decoded a second time before as many have been left out."""
_MAX_HELD_BYTES = 64 * 2**20
"""Packets since the last key frame that are held for going back."""
_HVCC_LAYERS_AT = 21
"""Where the configuration of HEVC in MP4 and Matroska counts temporal layers (ISO/IEC 14496-15, 8.3.3.1)."""


def can_skip(stream: Any) -> bool:
    """Whether FFmpeg can leave out pictures of this stream that no other refers to, packet by packet.

    H.264 says of each picture whether others refer to it. So does HEVC, but only for those of the same
    temporal layer: there must be one alone.
    """
    context = stream.codec_context
    if context.codec.canonical_name == "h264":
        return True
    extradata = context.extradata or b""
    is_hvcc = len(extradata) > _HVCC_LAYERS_AT and extradata[0] == 1
    return context.codec.canonical_name == "hevc" and is_hvcc and extradata[_HVCC_LAYERS_AT] >> 3 & 0b111 == 1


class Shown:
    """A frame to show: with its picture, or with the promise of one.

    Attributes:
        picture: As decoded; None if it was left out.
        time_s: Presentation time in seconds; None if the stream does not tell.
    """

    def __init__(self, picture: Any, time_s: float | None, decoder: SkippingDecoder | None = None) -> None:
        """`decoder`: the one that may leave frames out."""
        self.picture = picture
        self.time_s = time_s
        self._decoder = decoder

    def pictures(self) -> tuple[Any, Any, Any]:
        """The picture before, its own, and the one behind; the neighbors may be None."""
        return None, self.picture, None

    def mark(self, frame: Frame) -> None:
        """Let the decoder learn from what becomes of the frame, and the frame say what it took."""
        if self._decoder is not None:
            frame.num_decoded = self._decoder.num_decoded()


class _Run:
    """Packets from one key frame to the next, held for as long as a frame may ask for them.

    Attributes:
        key_pts: Time of the key frame, in ticks; None if it begins without one.
        is_start: Decoding can begin here: its first picture refers to no other.
        before: The run before, as long as this one is not known to be a start.
    """

    def __init__(self, key_pts: int | None, before: _Run | None, *, is_start: bool = False) -> None:
        self.packets: list[Any] = []
        self.key_pts = key_pts
        self.is_start = is_start
        self.before = before
        self.next: _Run | None = None
        if before is not None:
            before.next = self

    def start(self) -> _Run | None:
        """This run or the last one before that decoding can begin with."""
        run: _Run | None = self
        while run is not None and not run.is_start:
            run = run.before
        return run

    def from_start(self) -> Iterator[Any]:
        """All packets since decoding could begin."""
        run = self.start()
        while run is not None:
            yield from run.packets
            run = run.next


class _Planned(Shown):
    """A frame of a packet that has been sent to the decoder.

    Attributes:
        run: Where its packet is.
        was_skipped: The decoder was told to leave it out, if it can.
        late: What `pictures` gives, once they were decoded after all.
    """

    def __init__(self, decoder: SkippingDecoder, plan: Plan, run: _Run, *, was_skipped: bool) -> None:
        super().__init__(None, float(plan.packet.pts * plan.packet.time_base), decoder)
        self._go_back = partial(decoder.go_back, run, plan.packet.pts)
        self._look = partial(decoder.look_closely, plan.packet.pts)
        self._is_certain = plan.is_certain
        self.pts: int = plan.packet.pts
        self.run = run
        self.was_skipped = was_skipped
        self.late: tuple[Any, Any, Any] | None = None

    def pictures(self) -> tuple[Any, Any, Any]:
        """As for any frame; decodes them if need be.

        Raises:
            av.FFmpegError, ValueError: the stream is damaged there.
        """
        if self.late is None:
            self._go_back()
        if self.late is None:
            raise ValueError("no picture can be decoded up to this frame")
        return self.late

    def mark(self, frame: Frame) -> None:
        super().mark(frame)
        if not self._is_certain:
            frame.on_look = self._look


class SkippingDecoder:
    """The frames of one stream, of which only those are decoded that are sure to be looked at, that others
    refer to, or that lie where a cut is likely.
    """

    def __init__(self, packets: Iterator[Any], stream: Any, sampling: Sampling) -> None:
        self._plans = Lookahead(packets, stream, sampling)
        self._context = stream.codec_context
        self._run = _Run(None, None, is_start=True)
        self._unproven: dict[int, _Run] = {}
        self._pending: dict[int, _Planned] = {}
        self._promised: weakref.WeakValueDictionary[int, _Planned] = weakref.WeakValueDictionary()
        self._ready: deque[Shown] = deque()
        self._sent_until = self._shown_until = _START
        self._may_skip = True
        self._held_bytes = self._held_packets = 0
        self._balance = _ALLOWANCE
        self._num_decoded = 0

    def __iter__(self) -> Iterator[Shown]:
        """Frames in order.

        Raises:
            av.FFmpegError, ValueError: the stream is damaged or cut off, after the frames before that place.
        """
        import av

        plans = iter(self._plans)
        while True:
            failure: Exception | None = None
            try:
                plan = next(plans, None)
                if plan is not None:
                    self._send(plan)
            except (av.FFmpegError, ValueError) as error:
                plan, failure = None, self._retried(error)
            while self._ready:
                yield self._ready.popleft()
            if failure is not None:
                raise failure
            if plan is None:
                return

    def num_decoded(self) -> int:
        """Pictures that were decoded since this was asked last."""
        number, self._num_decoded = self._num_decoded, 0
        return number

    def look_closely(self, pts: int) -> None:
        """Somebody looks at a frame that was not sure to be looked at: its neighbors may be next."""
        self._plans.looked_at_closely(pts)

    def _send(self, plan: Plan) -> None:
        packet = plan.packet
        if plan.is_odd or (packet.pts is not None and packet.pts <= self._shown_until):
            self._make_good()
            self._stop_skipping()
        self._hold(packet)
        skips = not plan.in_full and self._is_allowed(packet)
        if packet.pts is not None and not plan.is_odd:
            self._pending[packet.pts] = _Planned(self, plan, self._run, was_skipped=skips)
            self._sent_until = max(self._sent_until, packet.pts)
        self._context.skip_frame = "NONREF" if skips else "DEFAULT"
        pictures = self._context.decode(packet)
        self._num_decoded += len(pictures)
        if any(picture.interlaced_frame for picture in pictures):
            # Such a picture is shown with the help of its neighbors, which must not be missing.
            pictures = [] if self._make_good() else pictures
            self._stop_skipping()
        for picture in pictures:
            self._show(picture)
        if packet.pts is None and not plan.is_odd:
            self._show_promised(None)

    def _hold(self, packet: Any) -> None:
        if not self._may_skip:
            return
        if self._held_bytes > _MAX_HELD_BYTES:
            self._make_good()
            self._begin_anew()
        if packet.is_keyframe and packet.pts is not None:
            if self._run.packets:
                self._run = _Run(packet.pts, self._run)
                self._unproven[packet.pts] = self._run
            else:
                self._run.key_pts = packet.pts
        self._run.packets.append(packet)
        self._held_bytes += packet.size
        self._held_packets += 1

    def _is_allowed(self, packet: Any) -> bool:
        """Whether a picture can be left out, and decoded later at a bearable price.

        It must be shown before one that came earlier: some containers, as AVI, tell the order in which
        pictures are decoded for that in which they are shown. It must not be shown before its key frame,
        as decoding may have to begin there.
        """
        key_pts = self._run.key_pts
        is_reordered = packet.pts < self._sent_until
        return (
            self._may_skip
            and is_reordered
            and key_pts is not None
            and packet.pts > key_pts
            and self._run.start() is not None
            and self._held_packets < self._balance
        )

    def _show(self, picture: Any) -> None:
        """A picture has come out of the decoder, and so did all before it that ever will."""
        if picture.pts is None:
            self._ready.append(Shown(picture, picture.time, self))
            return
        self._show_promised(picture.pts)
        planned = self._pending.pop(picture.pts, None)
        if planned is None:
            self._ready.append(Shown(picture, picture.time, self))
        else:
            planned.picture = picture
            self._ready.append(planned)
        self._shown_until = max(self._shown_until, picture.pts)
        run = self._unproven.pop(picture.pts, None)
        if run is not None and picture.pict_type == _INTRA:
            self._begin_at(run)

    def _show_promised(self, until: int | None) -> None:
        """Show the frames before this time, or all, that were left out."""
        due = sorted(pts for pts in self._pending if until is None or pts < until)
        for pts in due:
            planned = self._pending.pop(pts)
            if planned.was_skipped:
                self._promised[pts] = planned
                self._ready.append(planned)
                self._shown_until = max(self._shown_until, pts)
                self._balance += 1

    def _begin_at(self, run: _Run) -> None:
        """What lies before this run is held no longer, unless a frame still asks for it."""
        run.is_start, run.before = True, None
        packets = list(run.from_start())
        self._held_packets, self._held_bytes = len(packets), sum(packet.size for packet in packets)

    def _retried(self, error: Exception) -> Exception:
        """The error again, after the frames that would have been shown before it without any skipping."""
        import av

        if self._may_skip and self._run.start() is not None:
            try:
                self.go_back(self._run, self._shown_until + 1)
            except (av.FFmpegError, ValueError) as again:
                return again
        return error

    def _stop_skipping(self) -> None:
        self._may_skip = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Hold nothing of what has been sent: the next key frame may be a start."""
        self._run = _Run(None, None)
        self._unproven.clear()
        self._held_bytes = self._held_packets = 0

    def _make_good(self) -> bool:
        """Decode all that was left out and may still be asked for; False if there was nothing."""
        promised = [planned for planned in self._promised.values() if planned.late is None]
        owed = [*promised, *(planned for planned in self._pending.values() if planned.was_skipped)]
        if owed:
            oldest = min(owed, key=lambda planned: planned.pts)
            self.go_back(oldest.run, min(oldest.pts, self._shown_until + 1))
        return bool(owed)

    def go_back(self, run: _Run, since: int) -> None:
        """Decode once more what was sent since a time, in ticks, with nothing left out.

        Pictures that were not shown yet are shown, the others become those of frames that were promised.
        """
        self._context.flush_buffers()
        decoded: list[Any] = []
        before: Any = None
        for packet in run.from_start():
            is_needed = packet.pts is None or packet.pts >= since
            self._context.skip_frame = "DEFAULT" if is_needed else "NONREF"
            for picture in self._context.decode(packet):
                self._num_decoded += 1
                self._balance -= 1
                if picture.pts is not None and picture.pts > self._shown_until:
                    self._show(picture)
                if picture.pts is not None and picture.pts >= since:
                    decoded.append(picture)
                else:
                    before = picture
        self._keep(since, [before, *decoded, None])

    def _keep(self, since: int, pictures: list[Any]) -> None:
        """Give promised frames their pictures; `pictures` has one more at either end, or None."""
        for planned in list(self._promised.values()):
            if planned.pts < since or planned.late is not None:
                continue
            # A picture that could not be decoded is left out by FFmpeg: the one before stays on display.
            shown = [number for number, picture in enumerate(pictures) if _begins_by(picture, planned.pts)]
            if shown:
                at = shown[-1]
                planned.late = (pictures[at - 1] if at else None), pictures[at], pictures[at + 1]


def _begins_by(picture: Any, pts: int) -> bool:
    return picture is not None and picture.pts is not None and picture.pts <= pts
