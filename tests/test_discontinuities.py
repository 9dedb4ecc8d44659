"""Recordings joined end to end: each is cut, measured, captioned and tokenized as if it stood alone."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.ingest.media_readers import read_again
from curation.media.decoder import DecoderSettings
from curation.media.frame import Frame
from curation.records import Sample, Source
from curation.report.tables.table import flat_table
from curation.splitter import PerRecording
from curation.stage import View
from curation.stages.scenes import ScenesConfig, ScenesSplitter
from datasets_media import Bench, write_video
from generated import a_source, joined, no_models, scenes_of, spans_of
from generated import write_video as encode
from one_by_one import scan_verdicts

FIRST = [(30, 1), (45, 2)]
SECOND = [(45, 2), (3, 3), (42, 4), (35, 5)]
"""Scenes of 7.5 and 12.5 seconds at 10 FPS. The same scene ends one and begins the other."""
RED, BLUE = (200, 40, 40), (40, 60, 220)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, and a folder with both of them in one file, and again the first."""
    folder = tmp_path_factory.mktemp("recordings")
    write_video(folder / "a.ts", FIRST)
    write_video(folder / "b.ts", SECOND)
    (folder / "joined").mkdir()
    joined(folder / "joined/c.ts", folder / "a.ts", folder / "b.ts", folder / "a.ts")
    return folder


def data_of(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    scenes = changes.pop("scenes", {})
    videos = {
        "scenes": {"min_clip_s": 0.3, **scenes},
        "filters": ["flow", "color"],
        "flow": {"min_score": None, "max_score": None},
        "color": {"min_untinted_colorfulness": None},  # the scenes are of one hue each
    }
    return {
        "name": "joined",
        "input": [str(folder)],
        "output": str(output),
        "videos": videos,
        "run": {"max_failed_fraction": 1.0},
    } | changes


class Run(Bench):
    """A bench that knows the clips of its files."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.metrics = super().run()

    def sources(self) -> dict[str, Source]:
        found = [judged.source for _, unit in scan_verdicts(self.ledger, self.pipeline) for judged in unit]
        return {source.uri.rpartition("/")[2]: source for source in found}

    def clips(self, name: str) -> list[dict[str, Any]]:
        """Rows of the splitter, in order, with the sample's id."""
        source_id = self.sources()[name].source_id
        rows = [
            {**values, "sample_id": sample_id}
            for sample_id, (values, _) in self.rows("videos.scenes").items()
            if values["source_id"] == source_id
        ]
        return sorted(rows, key=lambda row: row["start_s"])

    def values(self, name: str, key: str) -> list[dict[str, Any]]:
        """What a step measured of each clip, in order."""
        rows = self.rows(key)
        return [rows[clip["sample_id"]][0] for clip in self.clips(name) if clip["sample_id"] in rows]


def alone_and_joined(recordings: Path, output: Path, **changes: Any) -> tuple[Run, Run]:
    return (
        Run(data_of(recordings, output / "alone", **changes)),
        Run(data_of(recordings / "joined", output / "joined", **changes)),
    )


SETTINGS: dict[str, dict[str, Any]] = {
    "native": {},
    "samples": {"sample_fps": 2.0, "short_side": 32},
    "samples without a second look": {"sample_fps": 2.0, "refine": False},
    "margins": {"margin_frames": 2},
    "merging": {"min_scene_s": 4.0},
    "fades alone": {"content_threshold": None},
    "adaptive": {"content_threshold": None, "adaptive_threshold": 3.0},
    "pieces": {"max_clip_s": 3.3},
    "no detector": {"content_threshold": None, "fade_threshold": None},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_recordings_are_cut_as_if_they_stood_alone(recordings: Path, tmp_path: Path, name: str) -> None:
    """One frame lasts 0.1 s: the second recording is shown from 7.5 s after the first one's begin on."""
    alone, whole = alone_and_joined(recordings, tmp_path, scenes=SETTINGS[name])
    first, second = alone.clips("a.ts"), alone.clips("b.ts")
    shift_s = whole.clips("c.ts")[0]["start_s"] - second[0]["start_s"]
    expected = [
        (clip["start_s"] + shift_s + later_s, clip["end_s"] + shift_s + later_s, clip["start_frame"] + frames)
        for clips, later_s, frames in ((first, 0.0, 0), (second, 7.5, 75), (first, 20.0, 200))
        for clip in clips
    ]
    found = [(clip["start_s"], clip["end_s"], clip["start_frame"]) for clip in whole.clips("c.ts")]
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-6)
    assert whole.metrics.frames_decoded["filter"] == whole.metrics.frames_held == 275
    assert whole.outcomes() == {"c.ts": "kept"}
    source = whole.sources()["c.ts"]
    assert (source.num_discontinuities, source.num_frames) == (2, 275)
    assert source.duration_s == pytest.approx(27.5)


ENDS = {
    "stand_ins": "allow",
    "captions": {"engine": "stand-in"},
    "tokens": {"weights": "stand-in", "area": 4096, "fps": 1, "max_frames": 4},
}


@pytest.mark.slow
def test_later_stages_find_the_frames_of_each_recording(recordings: Path, tmp_path: Path) -> None:
    alone, whole = alone_and_joined(recordings, tmp_path, **ENDS)
    for key, column in (("videos.flow", "flow_score"), ("videos.color", "mean_luma"), ("tokens", "codes")):
        first, second = alone.values("a.ts", key), alone.values("b.ts", key)
        found = [values[column] for values in whole.values("c.ts", key)]
        assert found == [values[column] for values in (*first, *second, *first)]
        assert len(set(found)) >= 4
    assert len(whole.rows("captions")) == len(whole.clips("c.ts")) == 7


def test_a_new_filter_finds_the_frames_of_known_cuts(recordings: Path, tmp_path: Path) -> None:
    alone_and_joined(recordings, tmp_path)
    flow = {"min_score": None, "max_score": None, "fps": 4.0}
    filters = {"filters": ["flow"], "scenes": {"min_clip_s": 0.3}, "flow": flow}
    alone, whole = alone_and_joined(recordings, tmp_path, videos=filters)
    assert whole.metrics.rows["videos.scenes"] == 0
    assert whole.metrics.frames_decoded["filter"] == 275
    first, second = alone.values("a.ts", "videos.flow"), alone.values("b.ts", "videos.flow")
    assert whole.values("c.ts", "videos.flow") == [*first, *second, *first]


def test_a_video_that_jumps_is_not_shared_out(recordings: Path, tmp_path: Path) -> None:
    """Neither its frames nor its clips: no position in it can be sought."""
    captions = {"stand_ins": "allow", "captions": {"engine": "stand-in"}}
    run = {"segment_s": 4.0, "max_failed_fraction": 1.0, "decoder": "decord"}
    whole = Run(data_of(recordings / "joined", tmp_path / "whole", **captions))
    parted = Run(data_of(recordings / "joined", tmp_path / "parts", **captions, run=run))
    for key in ("videos.scenes", "videos.flow", "captions"):
        assert parted.values("c.ts", key) == whole.values("c.ts", key)
    assert parted.metrics.frames_decoded == whole.metrics.frames_decoded
    assert whole.metrics.frames_decoded["enrich"] == 275


def test_clips_far_apart_are_found_in_one_go(tmp_path: Path) -> None:
    """By hand: 100 frames, of which the 60 gray ones in the middle, 12 seconds, wait for nothing."""
    folder = tmp_path / "in"
    folder.mkdir()
    how: dict[str, Any] = {"codec": "libx264", "pix_fmt": "yuv420p", "rate": 5}
    red, gray, blue = (np.full((48, 64, 3), color, np.uint8) for color in (RED, (128, 128, 128), BLUE))
    parts = (
        encode(tmp_path / "a.ts", [red] * 20 + [gray] * 60, **how),
        encode(tmp_path / "b.ts", [blue] * 20, **how),
    )
    joined(folder / "c.ts", *parts)
    videos = {
        "scenes": {},
        "filters": ["color"],
        "color": {"min_untinted_colorfulness": None},
    }
    captions = {"stand_ins": "allow", "captions": {"engine": "stand-in"}}
    first = Run(data_of(folder, tmp_path / "out", videos=videos, **captions))
    assert len(first.rows("captions")) == 2
    assert first.metrics.frames_decoded["enrich"] == 100
    videos |= {"filters": ["color", "flow"], "flow": {"min_score": None, "max_score": None}}
    again = Run(data_of(folder, tmp_path / "out", videos=videos, **captions))
    assert len(again.values("c.ts", "videos.flow")) == 2
    assert again.metrics.frames_decoded["filter"] == 100


@pytest.mark.slow
def test_transnet_begins_its_windows_anew(tmp_path: Path) -> None:
    """At 100 frames a window, of which 50 count: 30 and 40 frames alone have one window each."""
    stage = ScenesSplitter(ScenesConfig(content_threshold=None, fade_threshold=None, transnet_threshold=0.5))
    stage.setup(no_models())
    pictures = scenes_of([15, 15]), scenes_of([10, 30])
    source = a_source(frame_rate=Fraction(25))

    def frames() -> Iterator[Frame]:
        for number, pixels in enumerate([*pictures[0], *pictures[1]]):
            frame = Frame(number / 25, number, lambda pixels=pixels: pixels)
            frame.follows_jump = number == len(pictures[0])
            yield frame

    found = spans_of(PerRecording(partial(stage.start, source)), frames(), 0.04)
    alone = [spans_of(stage.start(source), islice(frames(), *part), 0.04) for part in ((0, 30), (30, 70))]
    assert found == [*alone[0], *alone[1]]
    assert [span.start_frame for span in found] == [0, 15, 30, 40]


def two_colors(folder: Path, name: str) -> None:
    """Three seconds of red and six of blue; the clock begins again, or 600 seconds are left out."""
    folder.mkdir()
    how: dict[str, Any] = {"codec": "libx264", "pix_fmt": "yuv420p", "bf": "3"}
    red, blue = [np.full((48, 64, 3), RED, np.uint8)] * 75, [np.full((48, 64, 3), BLUE, np.uint8)] * 150
    if name == "restart.ts":
        parts = encode(folder / "a.ts", red, **how), encode(folder / "b.ts", blue, **how)
        joined(folder / name, *parts)
        for part in parts:
            part.unlink()
    else:
        times_ms = [40 * k for k in range(75)] + [600_000 + 40 * k for k in range(150)]
        encode(folder / name, red + blue, times_ms=times_ms, **how)


def colors_of(run: Run, name: str) -> list[list[str]]:
    """The color of each frame that a captioner gets, clip by clip: second pass, two frames per second."""
    source = run.sources()[name]
    colors = []
    for clip in run.clips(name):
        sample = Sample.of_span(source.source_id, clip["start_s"], clip["end_s"])
        media = read_again(source, sample, View(fps=2.0, short_side=32), decoder=DecoderSettings())
        colors.append(["red" if pixels.mean((0, 1))[0] > 128 else "blue" for pixels in media.pixels])
    return colors


@pytest.mark.parametrize("name", ["restart.ts", "gap.ts", "gap.mkv", "gap.mp4"])
@pytest.mark.parametrize("scenes", [{}, {"content_threshold": None, "fade_threshold": None}])
def test_clips_are_as_long_as_their_frames_are_shown(
    tmp_path: Path, name: str, scenes: dict[str, Any]
) -> None:
    two_colors(tmp_path / "in", name)
    run = Run(data_of(tmp_path / "in", tmp_path / "out", scenes=scenes))
    clips = run.clips(name)
    assert [clip["duration_s"] for clip in clips] == pytest.approx([3.0, 6.0])
    assert [(clip["start_frame"], clip["end_frame"]) for clip in clips] == [(0, 75), (75, 225)]
    assert colors_of(run, name) == [["red"] * 6, ["blue"] * 12]
    red, blue = run.values(name, "videos.color")
    # BT.601 luma of the two colors, give or take the rounding of YUV.
    assert red["mean_luma"] == pytest.approx(0.299 * 200 + 0.587 * 40 + 0.114 * 40, abs=3)
    assert blue["mean_luma"] == pytest.approx(0.299 * 40 + 0.587 * 60 + 0.114 * 220, abs=3)
    (row,) = flat_table(run.ledger, run.pipeline).to_pylist()[:1]
    assert (row["level"], row["num_discontinuities"], row["num_frames"]) == ("source", 1, 225)
    assert row["duration_s"] == pytest.approx(9.0)


def test_slides_and_pauses_are_no_discontinuities(tmp_path: Path) -> None:
    """A slide each second for 20 seconds, and a screen that stands still for nine."""
    folder = tmp_path / "in"
    folder.mkdir()
    how: dict[str, Any] = {"codec": "libx264", "pix_fmt": "yuv420p"}
    encode(folder / "slides.mkv", scenes_of([20]), times_ms=[1000 * k for k in range(20)], **how)
    times_ms = [40 * k for k in range(50)] + [11_000 + 40 * k for k in range(50)]
    encode(folder / "screen.mkv", scenes_of([100]), times_ms=times_ms, **how)
    run = Run(data_of(folder, tmp_path / "out"))
    for name, seconds in (("slides.mkv", 20.0), ("screen.mkv", 13.0)):
        assert run.sources()[name].num_discontinuities == 0
        assert [clip["duration_s"] for clip in run.clips(name)] == pytest.approx([seconds])


def test_a_late_clock_is_no_discontinuity(tmp_path: Path) -> None:
    """A recorder that has been on for a day: 20 seconds from 86,400 s on."""
    folder = tmp_path / "in"
    folder.mkdir()
    times_ms = [86_400_000 + 100 * k for k in range(200)]
    how: dict[str, Any] = {"codec": "libx264", "pix_fmt": "yuv420p", "g": "10"}
    encode(folder / "a.ts", scenes_of([60, 70, 70]), times_ms=times_ms, **how)
    run = Run(data_of(folder, tmp_path / "out"))
    assert run.sources()["a.ts"].num_discontinuities == 0
    assert [clip["duration_s"] for clip in run.clips("a.ts")] == pytest.approx([6.0, 7.0, 7.0])
    assert run.clips("a.ts")[0]["start_s"] == pytest.approx(86_400, abs=1)


def test_cases(shared_data: Path, tmp_path: Path) -> None:
    """expected.txt: 2 clips, 3 s red and 6 s blue, as control.mp4; no clip of the 597 s without frames."""
    concat = Run(data_of(shared_data / "cases/concat/in", tmp_path / "concat"))
    for name in ("control.mp4", "red3_blue6.ts"):
        assert [clip["duration_s"] for clip in concat.clips(name)] == pytest.approx([3.0, 6.0])
        assert colors_of(concat, name) == [["red"] * 6, ["blue"] * 12]
    scores = [concat.values(name, "videos.color") for name in ("control.mp4", "red3_blue6.ts")]
    assert scores[0][0]["mean_luma"] == pytest.approx(scores[1][0]["mean_luma"], abs=2)
    assert scores[0][1]["mean_luma"] == pytest.approx(scores[1][1]["mean_luma"], abs=2)
    jump = Run(data_of(shared_data / "cases/jump/in", tmp_path / "jump"))
    assert sum(clip["duration_s"] for clip in jump.clips("gap600.ts")) == pytest.approx(6.0)
    assert [clip["end_frame"] for clip in jump.clips("gap600.ts")] == [75, 150]
