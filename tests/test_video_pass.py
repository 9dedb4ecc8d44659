"""Long videos in segments: the same rows as in one piece, whatever happens at the seams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.execution.plan import Task
from curation.execution.segments import WHOLE_VIDEO, Segment, neighbors, segments_of
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import UnitWorker
from curation.records import Sample
from curation.stages.scenes import ScenesSplitter
from datasets_media import Bench, write_video

SCENES = [(17, 1), (60, 2), (33, 3), (4, 4), (5, 5), (80, 6), (25, 7), (90, 8), (41, 9), (52, 10), (38, 11)]
"""44.5 seconds at 10 FPS; two scenes are too short to stand alone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    write_video(folder / "film.mp4", SCENES)
    return folder


def data_of(folder: Path, output: Path, segment_s: float | None, **scenes: Any) -> dict[str, Any]:
    return {
        "name": "film",
        "input": [str(folder)],
        "output": str(output),
        "videos": {
            "scenes": {"min_clip_s": 0.3, **scenes},
            "filters": ["flow", "color"],
            "flow": {"min_score": None, "max_score": None},
            "color": {"min_untinted_colorfulness": None},  # the scenes are of one hue each
        },
        "run": {"segment_s": segment_s, "max_failed_fraction": 1.0},
    }


class Run(Bench):
    """A bench on which the segments of a task are processed one after the other, in any order."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.metrics = Metrics()
        self.merged = Metrics()
        self.done: list[Task] = []
        self.metrics_by_task: list[Metrics] = []

    def all(self, *, backwards: bool = False) -> Run:
        worker = UnitWorker(self.pipeline)
        for task in self.tasks("probe"):
            worker.work(task)
        for phase in ("filter", "enrich"):
            self._do(worker, phase, backwards=backwards)
        return self

    def _do(self, worker: UnitWorker, phase: Any, *, backwards: bool) -> None:
        for task in self.tasks(phase):
            self.done.append(task)
            order = range(len(task.segments))
            results = {}
            for number in reversed(order) if backwards else order:
                metrics, results[number] = worker.process_segment(task, number)
                self.metrics.add(metrics)
            if results:
                self.merged = worker.merge(task, [results[number] for number in order])
            done = self.merged if results else worker.work(task).metrics
            self.metrics_by_task.append(done)
            self.metrics.add(done)

    def all_rows(self) -> dict[str, dict[str, Any]]:
        return {step.key: self.rows(step.key) for step in self.pipeline.steps()}

    def clips(self) -> list[tuple[float, float]]:
        return sorted((row["start_s"], row["end_s"]) for row, _ in self.rows("videos.scenes").values())


SETTINGS: dict[str, dict[str, Any]] = {
    "native": {},
    "samples": {"sample_fps": 2.0, "short_side": 32},
    "margins": {"margin_frames": 2},
    "adaptive": {"content_threshold": None, "adaptive_threshold": 3.0},
    "pieces": {"max_clip_s": 3.3},
    "few samples": {"sample_fps": 0.5},
    "no cut at all": {"content_threshold": None, "fade_threshold": None},
    "pieces of one scene": {"content_threshold": None, "fade_threshold": None, "max_clip_s": 3.3},
}


@pytest.mark.parametrize("segment_s", [4.0, 7.3, 30.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_segments_give_the_same_rows_as_one_piece(
    folder: Path, tmp_path: Path, name: str, segment_s: float
) -> None:
    whole = Run(data_of(folder, tmp_path / "whole", None, **SETTINGS[name])).all()
    parted = Run(data_of(folder, tmp_path / "parts", segment_s, **SETTINGS[name])).all(backwards=True)
    assert len(parted.done[0].segments) == -(-44.5 // segment_s)
    assert parted.all_rows() == whole.all_rows()
    clips = whole.clips()
    assert len(clips) == 1 if name == "no cut at all" else len(clips) >= 9
    assert "pieces" not in name or max(end_s - start_s for start_s, end_s in clips) == pytest.approx(3.3)
    assert parted.outcomes() == {"film.mp4": "kept"}


def test_segments_of_a_video_whose_clock_begins_late(tmp_path: Path) -> None:
    """A recorder that has been on for a day: all frames are behind what the header calls the end."""
    from generated import scenes_of
    from generated import write_video as write

    folder = tmp_path / "in"
    folder.mkdir()
    times_ms = [86_400_000 + 100 * k for k in range(200)]
    frames = scenes_of([60, 70, 70])
    write(folder / "a.ts", frames, codec="libx264", pix_fmt="yuv420p", times_ms=times_ms, g="10")
    whole = Run(data_of(folder, tmp_path / "whole", None)).all()
    parted = Run(data_of(folder, tmp_path / "parts", 5.0)).all()
    assert len(parted.done[0].segments) == 4
    assert parted.all_rows() == whole.all_rows()
    assert len(whole.clips()) == 3


@pytest.mark.parametrize("segment_s", [None, 7.3])
@pytest.mark.parametrize("name", ["samples", "few samples"])
def test_frames_that_nobody_looks_at_are_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, segment_s: float | None
) -> None:
    """The reference is the same pass of a splitter that is sure to look at every frame.

    With few samples nearly all of these short scenes are looked at closely: nothing is won.
    """
    left_out = Run(data_of(folder, tmp_path / "left_out", segment_s, **SETTINGS[name])).all()
    with monkeypatch.context() as patched:
        patched.setattr(ScenesSplitter, "step_fps", None)
        reference = Run(data_of(folder, tmp_path / "all", segment_s, **SETTINGS[name])).all()
    assert left_out.all_rows() == reference.all_rows()
    assert left_out.metrics.frames_held == reference.metrics.frames_held
    if name == "samples":
        assert left_out.metrics.frames_decoded["filter"] < reference.metrics.frames_decoded["filter"]


def test_segments_share_the_frames(folder: Path, tmp_path: Path) -> None:
    """By hand: the seams are at 14.83 and 29.67 s, key frames at every cut and every second
    after it, a cut is settled 9 frames later.

    A segment begins at the key frame a second before 5 s before its seam: at 8.7 and 23.4 s. It ends when
    the clip that crosses its end is complete: those that end with frames 199 and 314, so at 210 and 325.
    """
    run = Run(data_of(folder, tmp_path / "out", 15.0)).all()
    assert run.metrics.frames_held == 445
    assert run.merged.frames_decoded.total() == 0
    assert run.metrics.frames_decoded["filter"] == 210 + (325 - 87) + (445 - 234)


def test_rows_near_the_seams_are_not_measured_twice(folder: Path, tmp_path: Path) -> None:
    run = Run(data_of(folder, tmp_path / "out", 7.3)).all()
    assert run.metrics.rows["videos.scenes"] == len(run.clips())
    assert run.metrics.rows["videos.flow"] == len(run.clips())


def test_video_that_breaks_off_in_one_segment_fails_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "film.mp4"
    write_video(path, SCENES)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = np.random.default_rng(0).bytes(4000)
    path.write_bytes(data)
    run = Run(data_of(folder, tmp_path / "out", 10.0)).all()
    assert len(run.done[0].segments) == 5
    assert run.outcomes() == {"film.mp4": "failed DecodeError"}
    ((_, error),) = run.rows("videos.scenes").values()
    assert error is not None
    assert error.startswith("stopped")


def test_new_filter_on_known_cuts_is_measured_in_segments_that_need_no_merging(
    folder: Path, tmp_path: Path
) -> None:
    data = data_of(folder, tmp_path / "out", 10.0)
    Run(data).all()
    changed = data | {"videos": data["videos"] | {"flow": {"min_score": None, "max_score": None, "fps": 3.0}}}
    again = Run(changed).all()
    assert [task.segments for task in again.done] == [()] * 5
    assert len({task.segment for task in again.done}) == 5
    whole = Run(changed | {"output": str(tmp_path / "whole"), "run": {"segment_s": None}}).all()
    assert again.all_rows() == whole.all_rows()


def test_captions_and_tokens_of_a_long_video_are_shared_out(folder: Path, tmp_path: Path) -> None:
    ends = {
        "stand_ins": "allow",
        "captions": {"engine": "stand-in"},
        "tokens": {"weights": "stand-in", "area": 4096, "fps": 1, "max_frames": 8},
    }
    whole = Run(data_of(folder, tmp_path / "whole", None) | ends).all()
    parted = Run(data_of(folder, tmp_path / "parts", 10.0) | ends).all()
    assert [task.segment for task in parted.done if task.phase == "enrich"] == list(segments_of(44.5, 10.0))
    assert [task.segment for task in whole.done if task.phase == "enrich"] == [WHOLE_VIDEO]
    assert len(whole.rows("tokens")) == 8  # of 9 clips; one is too short for a pair of frames
    assert parted.all_rows() == whole.all_rows()
    # Clips with tokens begin at 0, 1.7, 7.7 | 11, | 19.9, 22.4 | 31.4 | 40.7 s or so.
    assert max(metrics.rows["tokens"] for metrics in parted.metrics_by_task) <= 3


def test_only_what_is_missing_is_decoded_again(folder: Path, tmp_path: Path) -> None:
    """Of the clips that a rejected neighbor leaves waiting, not the whole video."""
    data = data_of(folder, tmp_path / "out", None)
    data["videos"]["flow"]["max_score"] = 0.0
    first = Run(data).all()
    assert first.metrics.frames_decoded["filter"] == 445
    scores = sorted(row["flow_score"] for row, _ in first.rows("videos.flow").values())
    data["videos"]["flow"]["max_score"] = scores[0]
    second = Run(data).all()
    assert 0 < second.metrics.frames_decoded["filter"] < 150


def test_codecs_that_cannot_be_sought_are_taken_whole(tmp_path: Path) -> None:
    from generated import texture
    from generated import write_video as write

    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.avi", [texture(48, 64, seed=k) for k in range(60)], codec="mpeg4", pix_fmt="yuv420p")
    run = Run(data_of(folder, tmp_path / "out", 1.0)).all()
    assert [task.segments for task in run.done] == [()]


def test_segments_cover_all_times_once() -> None:
    segments = segments_of(100.0, 30.0)
    assert segments[0].start_s == -np.inf
    assert segments[-1].end_s == np.inf
    ends, starts = [item.end_s for item in segments[:-1]], [item.start_s for item in segments[1:]]
    assert ends == starts == [25.0, 50.0, 75.0]
    assert segments_of(10.0, 30.0) == (WHOLE_VIDEO,)
    assert Segment(1.0, 2.0).holds(1.0)
    assert not Segment(1.0, 2.0).holds(2.0)


def test_neighbors_are_joined_over_short_gaps() -> None:
    def span(start_s: float, end_s: float) -> Sample:
        return Sample.of_span("s", start_s, end_s)

    spans = [span(30.1, 31.0), span(0.0, 5.0), span(15.0, 20.0)]
    assert [[clip.start_s for clip in group] for group in neighbors(spans)] == [[0.0, 15.0], [30.1]]


def test_merging_needs_the_end(folder: Path, tmp_path: Path) -> None:
    run = Run(data_of(folder, tmp_path / "out", 10.0))
    worker = UnitWorker(run.pipeline)
    for task in run.tasks("probe"):
        worker.work(task)
    (task,) = run.tasks("filter")
    worker.merge(task, [worker.process_segment(task, 0)[1]])
    assert run.outcomes() == {"film.mp4": "failed DecodeError"}


@pytest.mark.parametrize("segment_s", [None, 7.3])
def test_a_filter_without_a_view_opens_no_video(
    folder: Path, tmp_path: Path, segment_s: float | None
) -> None:
    data = data_of(folder, tmp_path, segment_s)
    Run(data).all()
    data["videos"] |= {"filters": ["resolution", "flow", "color"], "resolution": {"min_width": 1000}}
    again = Run(data).all()
    assert again.metrics.rows["videos.resolution"] == len(again.clips()) >= 9
    assert not again.metrics.frames_decoded
    assert not again.metrics.bytes_read
    assert again.outcomes() == {"film.mp4": "rejected width_below_min"}


def test_clips_that_need_more_than_their_headers_are_decoded(folder: Path, tmp_path: Path) -> None:
    """What lies behind a filter without a view is still measured, and as it would have been at once."""
    data = data_of(folder, tmp_path / "later", None)
    color = data["videos"].pop("color")
    data["videos"] |= {"filters": ["flow"]}
    Run(data).all()
    filters = ["flow", "resolution", "color"]
    data["videos"] |= {"filters": filters, "resolution": {"min_width": 64, "min_height": 64}, "color": color}
    later = Run(data).all()
    at_once = Run(data | {"output": str(tmp_path / "at_once")}).all()
    assert later.all_rows() == at_once.all_rows()
    assert later.metrics.frames_decoded["filter"] > 0


@pytest.mark.parametrize("segment_s", [None, 7.3])
def test_bytes_of_a_video_count_once_as_stored(folder: Path, tmp_path: Path, segment_s: float | None) -> None:
    size = (folder / "film.mp4").stat().st_size
    metrics = Run(data_of(folder, tmp_path, segment_s)).all().metrics
    assert metrics.bytes_stored["filter"] == pytest.approx(size, abs=10)
