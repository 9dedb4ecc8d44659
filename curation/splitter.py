"""What a splitter is: a stage that turns the frames of a source into samples."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.stage import C, Column, Media, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation.media.frame import Frame
    from curation.records import Sample, Source


@dataclass(frozen=True, kw_only=True)
class Span:
    """Part of a video, found by a splitter: seconds and decode-order frame numbers, ends exclusive."""

    start_s: float
    end_s: float
    start_frame: int
    end_frame: int


SPAN_COLUMNS: Mapping[str, Column] = {
    "source_id": Column(pa.string(), "The video."),
    "kind": Column(pa.string(), "`clip`."),
    "start_s": Column(pa.float64(), "Begin of the clip: presentation time in seconds."),
    "end_s": Column(pa.float64(), "Its end, exclusive."),
    "duration_s": Column(pa.float64(), "end_s - start_s."),
    "start_frame": Column(pa.int64(), "Number of its first frame, in presentation order."),
    "end_frame": Column(pa.int64(), "Number of the frame after its last."),
    "num_sizes": Column(
        pa.int64(), "Sizes, pixel aspects and orientations that the source's frames have as stored."
    ),
}
"""The columns of every splitter: where a clip begins and ends in its source, ends exclusive."""

SOURCE_COLUMNS = ("num_sizes",)
"""Those that tell of the whole source what takes decoding all of it; the same for each of its clips.

`num_sizes` is how many sizes, pixel aspects and orientations its frames have as stored; 1 where nothing
changes in mid-stream, null where the decoder does not tell.
"""


def source_values(codings: Collection[object]) -> dict[str, Any]:
    """`SOURCE_COLUMNS` of a source, from what was noted of its frames."""
    return {"num_sizes": len(codings) or None}


def span_row(clip: Sample, span: Span) -> dict[str, Any]:
    """A splitter's row for one clip; `SOURCE_COLUMNS` are filled in at the source's end."""
    return {
        "source_id": clip.source_id,
        "kind": clip.kind,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "duration_s": clip.duration_s,
        "start_frame": span.start_frame,
        "end_frame": span.end_frame,
        **dict.fromkeys(SOURCE_COLUMNS),
    }


class CutFinder(abc.ABC):
    """Looks at the frames of one source in order and says which spans are complete.

    Attributes:
        frame_metrics: What was read off each frame, in order; filled only where the splitter was told to.
    """

    frame_metrics: Sequence[Any] = ()

    @property
    @abc.abstractmethod
    def open_from_s(self) -> float | None:
        """Where the span that is not yet complete begins; None before the first frame."""

    @abc.abstractmethod
    def push(self, frame: Frame) -> Iterable[Span]:
        """Take the next frame; return the spans that no later frame can change."""

    @abc.abstractmethod
    def finish(self, end_s: float) -> Iterable[Span]:
        """After the last frame, which lasts until `end_s`: return what is left."""


class PerRecording(CutFinder):
    """Starts a fresh finder at every discontinuity, whatever the splitter: no span reaches over one.

    Each recording is split as if it stood alone, but for its place on the timeline. Such a video is
    looked at in one piece, so frame_metrics are not kept.
    """

    def __init__(self, start: Callable[[], CutFinder]) -> None:
        self._start = start
        self._finder = start()

    @property
    def open_from_s(self) -> float | None:
        return self._finder.open_from_s

    def push(self, frame: Frame) -> Iterator[Span]:
        if frame.follows_jump:
            yield from self._finder.finish(frame.pts_s)
            self._finder = self._start()
        yield from self._finder.push(frame)

    def finish(self, end_s: float) -> Iterable[Span]:
        return self._finder.finish(end_s)


Infer = Callable[["NDArray[Any]"], "NDArray[Any]"]
"""What calls `Splitter.infer`, here or in a model worker."""


class Splitter(Stage[C]):
    """A stage that turns a source into samples: a row per span, found while the frames pass by.

    A long source may be looked at in parts, by several workers at once. Each keeps what it read off its
    frames, and `replay` of all frame_metrics gives the spans of the whole.
    """

    columns = SPAN_COLUMNS

    @property
    def lookback_s(self) -> float | None:
        """Seconds of frames before a part that its frame metrics depend on; None: only the whole will do."""
        return None

    @property
    def step_fps(self) -> float | None:
        """The `step_fps` of its `Sampling`; None: it looks at every frame."""
        return None

    @abc.abstractmethod
    def start(
        self, source: Source, *, keeps_frame_metrics: bool = False, infer: Infer | None = None
    ) -> CutFinder:
        """Begin with a source, or with a part of one. Without a model, or with `infer`, it needs no `setup`.

        Args:
            source: The video.
            keeps_frame_metrics: Whether the finder keeps what it reads off each frame.
            infer: Its own `infer` in a model worker; None: the one of this object. The spans are the same.
        """

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """The model's part of finding cuts: an array in, an array out. It may run in a model worker.

        It needs `setup`. A splitter that has it says `gpu` in its `resources`.
        """
        raise NotImplementedError("this splitter has no model")

    def replay(self, source: Source, frame_metrics: Sequence[Any], end_s: float) -> Iterable[Span]:
        """The spans of a source from the metrics of all its frames."""
        raise NotImplementedError("this splitter takes a source in one piece")

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        raise NotImplementedError("a splitter works on the frames of a source, by start()")
