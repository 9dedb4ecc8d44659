"""Flow: content that moves by a known number of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_small

from curation.errors import ConfigError, DecodeError, UnsupportedMediaError
from curation.execution.worker.measure import isolate
from curation.media.decode import decode_video
from curation.media.resize import resize
from curation.pipeline.models import resolve_revision
from curation.stage import Setup, View
from curation.stages.flow import FlowConfig, FlowStage, RaftFlow, pairs_at_once
from generated import a_sample, expected, measured, media_of, moving_square, no_models, raises, texture

SIDE = 256
SCENE = texture(SIDE, 2 * SIDE, seed=3, cell=16)


@pytest.fixture(scope="module")
def stage():
    stage = FlowStage(FlowConfig())
    stage.setup(no_models())
    return stage


def panned(*steps_px):
    """A camera that has moved right by so many pixels at each frame."""
    return np.stack([SCENE[:, step : step + SIDE] for step in steps_px])


def score(stage, frames):
    (row,) = measured(stage, media_of(frames))
    assert set(row) == {"flow_score"}
    return row["flow_score"]


@pytest.mark.parametrize("step_px", [1, 4, 10])
def test_a_pan_scores_its_pixels_per_short_side(stage, step_px):
    assert score(stage, panned(0, step_px, 2 * step_px)) == pytest.approx(step_px / SIDE, rel=0.05)


def test_a_diagonal_counts_by_its_length(stage):
    scene = texture(2 * SIDE, 2 * SIDE, seed=4, cell=16)
    moved = scene[8 : 8 + SIDE, 6 : 6 + SIDE]
    assert score(stage, [scene[:SIDE, :SIDE], moved]) == pytest.approx(10 / SIDE, rel=0.05)


def test_the_score_is_the_mean_over_pairs(stage):
    assert score(stage, panned(0, 0, 0, 6)) == pytest.approx((0 + 0 + 6) / 3 / SIDE, rel=0.05)


def test_stills_and_black_do_not_move(stage):
    assert score(stage, panned(5, 5, 5)) == 0.0
    assert score(stage, np.zeros((4, 37, 51, 3), np.uint8)) == 0.0


def test_more_motion_scores_higher(stage):
    scores = [score(stage, moving_square(5, step_px)) for step_px in (0, 1, 2, 4, 8)]
    assert scores == sorted(set(scores))


def test_a_moving_square_scores_by_its_area(stage):
    # 4 px over (96 / 256)^2 of the frame; the border of the square drags some ground along.
    assert score(stage, moving_square(4, 4)) == pytest.approx(4 * (96 / SIDE) ** 2 / SIDE, rel=0.25)


def test_size_does_not_matter(stage):
    large = np.stack([texture(512, 1024, seed=3, cell=32)[:, step : step + 512] for step in (0, 8, 16)])
    small = np.stack([resize(frame, View(short_side=256)) for frame in large])
    assert score(stage, small) == pytest.approx(score(stage, large), rel=0.05)


def test_direction_and_color_do_not_matter(stage):
    right = score(stage, panned(0, 6, 12))
    assert score(stage, panned(12, 6, 0)) == pytest.approx(right, rel=0.05)
    gray = np.repeat(panned(0, 6, 12).mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    assert score(stage, gray) == pytest.approx(right, rel=0.05)


def test_odd_sizes_and_portrait_use_the_short_side(stage):
    frames = panned(0, 6)[:, :, :131]
    assert score(stage, frames) == pytest.approx(6 / 131, rel=0.05)


def test_one_frame_is_an_error_not_a_score(stage):
    (row,) = measured(stage, media_of(panned(0)))
    assert isinstance(row, UnsupportedMediaError)
    assert "two frames" in str(row)


def test_only_the_short_clip_of_a_batch_fails(stage):
    samples = [a_sample(float(k), k + 1.0) for k in range(3)]
    frames = {0: panned(0, 3), 1: panned(0), 2: panned(0, 6)}
    rows = isolate(stage, samples, lambda sample, view: media_of(frames[int(sample.start_s)]))
    assert [row.error_type for row in rows] == [None, "UnsupportedMediaError", None]
    assert rows[1].values == {}
    assert rows[2].values["flow_score"] == score(stage, panned(0, 6))


def test_a_broken_video_is_failed_not_still(stage):
    (row,) = isolate(stage, [a_sample()], raises(DecodeError("stopped after 3 of 9 frames")))
    assert (row.values, row.error_type) == ({}, "DecodeError")


def test_a_batch_equals_its_samples(stage):
    media = [media_of(panned(0, k, 2 * k)) for k in (1, 5, 9)]
    assert measured(stage, *media) == [measured(stage, item)[0] for item in media]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0.25, None),
        (0.5, None),
        (0.2499, "flow_score_below_min"),
        (0.5001, "flow_score_above_max"),
    ],
)
def test_exactly_at_the_threshold_is_kept(value, reason):
    stage = FlowStage(FlowConfig(min_score=0.25, max_score=0.5))
    assert stage.reject_reason({"flow_score": value}) == reason


def test_the_view_follows_the_settings():
    assert FlowStage(FlowConfig(fps=4.0, short_side=128)).view("clip") == View(fps=4.0, short_side=128)


def test_a_real_pan_moves_more_than_a_stage(stage, shared_data):
    """motion_farneback: another algorithm on the same pairs; steady content agrees within a factor of two."""
    known = expected(shared_data)["motion_farneback"]["values"]
    scores = {}
    for name in ("skv_bikes.mp4", "mpy_chaplin.mp4"):
        frames = [
            frame.pixels
            for frame in decode_video(shared_data / "video" / name)
            if frame.index % known[name][2] == 0
        ]
        farneback = known[name][0] / min(frames[0].shape[:2])
        scores[name] = score(stage, [resize(frame, stage.view("clip")) for frame in frames])
        if name == "mpy_chaplin.mp4":  # bikes has cuts, across which flow means nothing
            assert farneback / 2 < scores[name] < farneback * 2
    assert scores["skv_bikes.mp4"] > 3 * scores["mpy_chaplin.mp4"]
    assert known["skv_bikes.mp4"][0] / 272 > 3 * known["mpy_chaplin.mp4"][0] / 360


class TestRaft:
    """torchvision's RAFT, untrained: what it is fed and how it is read can be checked all the same."""

    def test_lengths_are_those_of_torchvision(self):
        frames = np.stack(moving_square(3, step_px=6, side=160, square=64))
        stage = FlowStage(FlowConfig(method="raft_small", weights="stand-in"))
        stage.setup(no_models())
        (row,) = measured(stage, media_of(frames))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = raft_small(weights=None, progress=False).eval()
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            flows = [model(pixels[index : index + 1], pixels[index + 1 : index + 2])[-1] for index in (0, 1)]
        expected = np.mean([np.linalg.norm(flow[0].numpy(), axis=0).mean() for flow in flows]) / 160
        assert row["flow_score"] == pytest.approx(expected, rel=1e-4)

    def test_pairs_of_several_clips_share_batches(self):
        """As on a GPU, where a batch holds 32 pairs of one size, whichever clips they are from."""
        stage = FlowStage(FlowConfig(method="raft_small", weights="stand-in"))
        stage.setup(no_models())
        wide = [np.stack(moving_square(number, 6, side=136, square=64)) for number in (2, 3, 1, 5)]
        high = np.stack(moving_square(3, 4, side=144, square=64))
        clips = [media_of(frames) for frames in (wide[0], high, *wide[1:])]
        singles = [measured(stage, item)[0] for item in clips]
        for batch_size, sizes in ((3, [3, 3, 1, 2]), (32, [7, 2])):
            seen = []
            stage._flow = RaftFlow("raft_small", None, "cpu", batch_size=batch_size)
            stage._flow._model.register_forward_pre_hook(
                lambda _, given, seen=seen: seen.append(tuple(given[0].shape))
            )
            rows = measured(stage, *clips)
            assert [shape[0] for shape in seen] == sizes
            assert [shape[2] for shape in seen] == [136] * (len(sizes) - 1) + [144]
            assert isinstance(rows[3], UnsupportedMediaError)
            for row, single in zip(rows[:3] + rows[4:], singles[:3] + singles[4:], strict=True):
                assert row["flow_score"] == pytest.approx(single["flow_score"], rel=1e-4)
        assert len({single["flow_score"] for single in singles[:3]}) == 3

    @pytest.mark.parametrize(
        ("height", "width", "pairs"),
        [
            (256, 456, 32),  # 1,824 places: 4 B x 1,824^2 x 1.33 = 17.7 MB each
            (512, 912, 3),  # 16 times that, 283 MB
            (1080, 1920, 1),  # 5.6 GB
        ],
    )
    def test_large_frames_share_a_batch_with_fewer(self, height, width, pairs):
        assert pairs_at_once(height, width) == pairs_at_once(width, height) == pairs

    def test_precision_is_said(self):
        (ref,) = FlowStage(FlowConfig(method="raft_small", weights="stand-in")).models()
        assert ref.precision.startswith("tf32")

    @pytest.mark.parametrize("size", [(96, 130), (64, 64), (131, 257)])
    def test_odd_and_small_sizes_are_measured(self, size):
        stage = FlowStage(FlowConfig(method="raft_small", weights="stand-in"))
        stage.setup(no_models())
        frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
        (row,) = measured(stage, media_of(frames))
        assert row["flow_score"] > 0

    def test_weights_from_a_file(self, tmp_path):
        torch.manual_seed(1)
        torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
        stage = FlowStage(FlowConfig(method="raft_small", weights=str(tmp_path / "raft.pth")))
        (ref,) = stage.models()
        assert not ref.stand_in
        stage.setup(Setup("cpu", {"raft": resolve_revision(ref)}))
        other = FlowStage(FlowConfig(method="raft_small", weights="stand-in"))
        other.setup(no_models())
        frames = np.stack(moving_square(2, step_px=6, side=128, square=64))
        assert measured(stage, media_of(frames)) != measured(other, media_of(frames))

    def test_foreign_weights_are_refused(self, tmp_path):
        torch.save({"weight": torch.zeros(1)}, tmp_path / "raft.pth")
        stage = FlowStage(FlowConfig(method="raft_small", weights=str(tmp_path / "raft.pth")))
        with pytest.raises(ConfigError, match="holds no weights of torchvision's raft_small"):
            stage.setup(Setup("cpu", {"raft": resolve_revision(stage.models()[0])}))

    @pytest.mark.parametrize("settings", [{"method": "raft_small"}, {"weights": "stand-in"}])
    def test_method_and_weights_must_fit(self, settings):
        with pytest.raises(ValueError, match="RAFT needs them"):
            FlowConfig(**settings)
