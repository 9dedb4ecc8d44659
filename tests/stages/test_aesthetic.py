"""Aesthetic: heads against LAION's own, the whole stage against open_clip's tower."""

from __future__ import annotations

import hashlib

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from curation.errors import ConfigError, DecodeError
from curation.execution.worker.measure import isolate
from curation.pipeline.models import resolve_revision
from curation.stage import Media, Setup, View
from curation.stages.aesthetic import AestheticConfig, AestheticStage, load_head
from generated import a_sample, a_source, expected, measured, media_of, no_models, raises, texture

# OpenAI CLIP, clip/clip.py, _transform.
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])

MLP_LAYERS = {0: (1024, None), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
"""Position in LAION's nn.Sequential, with dropout between -> outputs, inputs (None: the embedding)."""


def mlp_state(width, seed=0):
    """Weights of a v2 head as LAION's checkpoint names them."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for place, (outputs, inputs) in MLP_LAYERS.items():
        shape = (outputs, inputs or width)
        state[f"layers.{place}.weight"] = torch.randn(shape, generator=generator) / (shape[1] ** 0.5 / 2)
        state[f"layers.{place}.bias"] = torch.randn(outputs, generator=generator)
    return state


def mlp_by_hand(state, embedding):
    """One affine map after the other, no activation, in float64."""
    value = np.asarray(embedding, np.float64)
    for place in MLP_LAYERS:
        weight, bias = (
            state[f"layers.{place}.{name}"].numpy().astype(np.float64) for name in ("weight", "bias")
        )
        value = weight @ value + bias
    return float(value[0])


def unit_vectors(number, width):
    vectors = np.random.default_rng(0).normal(size=(number, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def stand_in():
    stage = AestheticStage(AestheticConfig(weights="stand-in", head="stand-in"))
    stage.setup(no_models())
    return stage


MODEL, WIDTH = "ViT-S-32-alt", 256
"""The smallest architecture that open_clip has, and the numbers of its embedding."""


def small_clip(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.create_model(MODEL, pretrained=None).eval()


@pytest.fixture(scope="module")
def real_parts(tmp_path_factory):
    """A small CLIP and a head on disk, as the real ones come; their folder and themselves."""
    folder = tmp_path_factory.mktemp("models")
    clip = small_clip(seed=5)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    state = mlp_state(WIDTH)
    torch.save(state, folder / "head.pth")
    return folder, clip, state


def stage_on(folder, **settings):
    head = folder / "head.pth"
    config = AestheticConfig(
        model=MODEL,
        weights=settings.pop("weights", str(folder / "open_clip_model.safetensors")),
        head=str(head),
        head_sha256=hashlib.sha256(head.read_bytes()).hexdigest(),
        **settings,
    )
    stage = AestheticStage(config)
    revisions = {ref.role: resolve_revision(ref) for ref in stage.models()}
    stage.setup(Setup(device="cpu", revisions=revisions))
    return stage


def preprocessed(frame):
    """OpenAI's preprocessing, written down once more: short side 224, center crop, normalise."""
    height, width = frame.shape[:2]
    scale = 224 / min(height, width)
    size = (224, int(height * scale)) if width <= height else (int(width * scale), 224)
    pixels = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), np.float64)
    top, left = round((pixels.shape[0] - 224) / 2), round((pixels.shape[1] - 224) / 2)
    pixels = pixels[top : top + 224, left : left + 224] / 255
    return ((pixels - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


# Heads


def test_the_mlp_head_has_no_activations(tmp_path):
    state = mlp_state(24)
    torch.save(state, tmp_path / "head.pth")
    head = load_head(tmp_path / "head.pth").eval()
    for vector in unit_vectors(5, 24):
        with torch.inference_mode():
            score = float(head(torch.from_numpy(vector)))
        assert score == pytest.approx(mlp_by_hand(state, vector), abs=1e-4)


def test_the_linear_head(tmp_path):
    weight, bias = torch.arange(1.0, 7.0).reshape(1, 6), torch.tensor([0.5])
    torch.save({"weight": weight, "bias": bias}, tmp_path / "head.pth")
    with torch.inference_mode():
        score = load_head(tmp_path / "head.pth")(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 2.0]))
    assert float(score) == 1 + 12 + 0.5


def test_another_file_is_no_head(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"other\.pth holds no LAION"):
        load_head(tmp_path / "other.pth")


def test_laions_own_scores(shared_data):
    """aesthetic_heads: the heads on LAION's published embeddings, computed with numpy in float64."""
    known = expected(shared_data)["aesthetic_heads"]
    v2, v1 = "sac+logos+ava1-l14-linearMSE.pth", known["linear_v1"]
    files = {
        v2: ("vit_l_14", known["mlp_v2"][v2]["rating_embedding_scores"]),
        "sa_0_4_vit_l_14_linear.pth": ("vit_l_14", v1["vit_l_14"]),
        "sa_0_4_vit_b_32_linear.pth": ("vit_b_32", v1["vit_b_32"]),
    }
    folder = shared_data / "weights/laion"
    for name, (tower, scores) in files.items():
        head = load_head(folder / name).eval()
        found = []
        for rating in range(10):
            embedding = np.load(folder / f"{tower}_embeddings/rating{rating}.npy").astype(np.float32)
            with torch.inference_mode():
                found.append(float(head(torch.from_numpy(embedding.reshape(-1)))))
        assert found == pytest.approx(scores, abs=1e-5), name
        assert found == sorted(set(found))


# The whole stage, on a model from disk


def test_a_score_is_the_head_on_the_normalised_embedding(real_parts):
    folder, clip, state = real_parts
    frames = [texture(224, 300, seed=seed) for seed in range(3)]
    (row,) = measured(stage_on(folder), media_of(frames))
    for frame, score in zip(frames, row["aesthetic_scores"], strict=True):
        pixels = torch.from_numpy(preprocessed(frame).astype(np.float32))[None]
        with torch.inference_mode():
            embedding = clip.encode_image(pixels)[0].numpy().astype(np.float64)
        assert score == pytest.approx(mlp_by_hand(state, embedding / np.linalg.norm(embedding)), abs=1e-3)
    assert row["aesthetic_score"] == min(row["aesthetic_scores"])
    assert np.ptp(row["aesthetic_scores"]) > 0.02  # or the tolerance would hide a mix-up


def test_an_embedding_is_kept_as_float16(real_parts):
    """Against open_clip's own, on OpenAI's preprocessing; a clip's is the mean direction of its frames."""
    folder, clip, _ = real_parts
    frames = [texture(224, 300, seed=seed) for seed in range(3)]
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([preprocessed(frame) for frame in frames]).astype(np.float32))
        known = clip.encode_image(pixels).numpy().astype(np.float64)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    mean = known.mean(axis=0) / np.linalg.norm(known.mean(axis=0))
    stage = stage_on(folder)
    for media, expect in ((frames[:1], known[0]), (frames[1:2], known[1]), (frames, mean)):
        (row,) = measured(stage, media_of(media))
        found = np.frombuffer(row["embedding"], "<f2")
        assert found.shape == (WIDTH,)
        assert np.abs(found - expect).max() < 1e-3


def test_other_weights_give_other_scores(real_parts, tmp_path):
    folder, _, _ = real_parts
    save_file(small_clip(seed=6).state_dict(), tmp_path / "open_clip_model.safetensors")
    media = media_of([texture(224, 224)])
    first, second = (
        measured(stage, media)[0]["aesthetic_score"]
        for stage in (
            stage_on(folder),
            stage_on(folder, weights=str(tmp_path / "open_clip_model.safetensors")),
        )
    )
    assert abs(first - second) > 0.1


def test_a_folder_of_weights_is_found_too(real_parts):
    folder, _, _ = real_parts
    media = media_of([texture(224, 224)])
    assert measured(stage_on(folder, weights=str(folder)), media) == measured(stage_on(folder), media)


def test_a_head_that_is_not_the_configured_one_is_refused(real_parts):
    folder, _, _ = real_parts
    config = AestheticConfig(weights=str(folder), head=str(folder / "head.pth"))  # with LAION's sha256
    (head,) = (ref for ref in AestheticStage(config).models() if ref.role == "head")
    with pytest.raises(ConfigError, match="sha256"):
        resolve_revision(head)


# Batches and edges, on the stand-in: the same architecture, untrained


def test_a_clip_is_as_good_as_its_worst_frame(stand_in):
    frames = [texture(256, 300, seed=seed, cell=4**seed) for seed in range(3)]
    alone = [measured(stand_in, media_of([frame]))[0]["aesthetic_score"] for frame in frames]
    (row,) = measured(stand_in, media_of(frames))
    assert row["aesthetic_scores"] == alone
    assert row["aesthetic_score"] == min(alone) < max(alone)


def test_a_batch_equals_its_samples(stand_in):
    media = [
        media_of([texture(240 + seed, 256, seed=seed * 10 + part) for part in range(parts)])
        for seed, parts in enumerate((1, 3, 2))
    ]
    assert measured(stand_in, *media) == [measured(stand_in, item)[0] for item in media]


@pytest.mark.parametrize("shape", [(1, 1, 3), (37, 51, 3), (256, 1101, 3)])
def test_black_and_odd_sizes_have_a_score(stand_in, shape):
    (row,) = measured(stand_in, media_of([np.zeros(shape, np.uint8)]))
    assert np.isfinite(row["aesthetic_score"])
    assert row["aesthetic_scores"] == [row["aesthetic_score"]]


def test_size_hardly_matters(stand_in):
    large = texture(512, 512, cell=64)
    small = np.asarray(Image.fromarray(large).resize((256, 256), Image.Resampling.LANCZOS))
    other = texture(512, 512, cell=64, seed=9)
    score, same, different = (
        measured(stand_in, media_of([frame]))[0]["aesthetic_score"] for frame in (large, small, other)
    )
    assert abs(score - same) < abs(score - different) / 10


def test_the_stand_in_is_seeded_and_leaves_other_dice_alone(stand_in):
    torch.manual_seed(7)
    undisturbed = torch.rand(3)
    torch.manual_seed(7)
    again = AestheticStage(stand_in.config)
    again.setup(no_models())
    assert torch.equal(torch.rand(3), undisturbed)
    media = media_of([texture(224, 224)])
    assert measured(again, media) == measured(stand_in, media)


def test_a_batch_that_does_not_fit_is_the_cores_to_make_smaller(stand_in):
    """torch's own error comes out of `measure`, at the first try."""
    sizes = []

    class Cramped:
        def embed(self, squares):
            sizes.append(len(squares))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    cramped = AestheticStage(stand_in.config)
    cramped.setup(no_models())
    cramped._tower = Cramped()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        measured(cramped, *(media_of([texture(224, 224, seed=seed)]) for seed in range(5)))
    assert sizes == [5]


# Precision


def test_precision_changes_the_fingerprint_but_where_numbers_are_those_of_before():
    settings = {
        precision: AestheticStage(AestheticConfig(precision=precision)).measure_settings()
        for precision in ("fp32", "tf32", "bf16")
    }
    assert "precision" not in settings["tf32"]
    assert [settings[precision].pop("precision") for precision in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert settings["fp32"] == settings["tf32"] == settings["bf16"]


def test_precision_reaches_the_model(real_parts):
    """bfloat16 keeps 8 bits: a score of an embedding of unit length moves, but not far."""
    folder, _, _ = real_parts
    media = media_of([texture(224, 300, seed=seed) for seed in range(3)])
    found = {
        precision: measured(stage_on(folder, precision=precision), media)[0]["aesthetic_scores"]
        for precision in ("fp32", "tf32", "bf16")
    }
    assert found["fp32"] == found["tf32"]
    assert 0 < np.abs(np.subtract(found["fp32"], found["bf16"])).max() < 0.1


def test_precision_is_said_of_the_tower_and_not_of_the_head():
    clip, head = AestheticStage(AestheticConfig(precision="bf16")).models()
    assert (clip.precision, head.precision) == ("bf16", None)
    assert "CPU" in AestheticStage(AestheticConfig(precision="tf32")).models()[0].precision


# Scores that came with the source


def carrying(**carried):
    return Media(a_source(kind="image", metadata=carried), np.empty((0, 0, 0, 3), np.uint8), np.empty(0))


def test_a_score_that_came_with_the_source_is_taken_and_no_model_is_needed():
    stage = AestheticStage(AestheticConfig(from_column="laion_score", min_score=5.5))
    assert stage.models() == ()
    assert (stage.view("image"), stage.view("clip")) == (None, None)
    stage.setup(no_models())
    rows = measured(stage, carrying(laion_score=6.25, other=1.0), carrying(laion_score=5))
    assert [row["aesthetic_score"] for row in rows] == [6.25, 5.0]
    assert rows[0] == {"aesthetic_score": 6.25, "aesthetic_scores": [6.25], "embedding": None}
    assert [stage.reject_reason(row) for row in rows] == [None, "aesthetic_score_below_min"]


@pytest.mark.parametrize("carried", [{}, {"score": "good"}, {"score": True}, {"score": float("nan")}])
def test_a_sample_without_that_score_is_failed(carried):
    stage = AestheticStage(AestheticConfig(from_column="score"))
    samples, media = [a_sample(0), a_sample(1, 2)], [carrying(score=7.0), carrying(caption="x", **carried)]
    good, bad = isolate(stage, samples, lambda sample, _: media[samples.index(sample)])
    assert good.values["aesthetic_score"] == 7.0
    assert bad.error_type == "UnsupportedMediaError"
    assert "'score'" in bad.error
    assert "caption" in bad.error


def test_taken_scores_are_filed_apart_from_measured_ones_and_by_their_name_alone():
    measured_settings = AestheticStage(AestheticConfig()).measure_settings()
    taken = AestheticStage(AestheticConfig(from_column="a")).measure_settings()
    assert "from_column" not in measured_settings
    assert taken == {"from_column": "a"}
    assert taken == AestheticStage(AestheticConfig(from_column="a", num_frames=5)).measure_settings()


def test_a_head_in_a_folder_is_named_by_its_file(real_parts):
    folder, _, _ = real_parts
    media = media_of([texture(224, 224)])
    config = stage_on(folder).config.model_dump() | {"head": str(folder)}
    with pytest.raises(ConfigError, match="head_file"):
        load_head(folder)
    stage = AestheticStage(AestheticConfig(**config | {"head_file": "head.pth"}))
    stage.setup(Setup("cpu", {ref.role: resolve_revision(ref) for ref in stage.models()}))
    assert measured(stage, media) == measured(stage_on(folder), media)


def test_weights_with_another_sha256_are_refused(real_parts):
    folder, _, _ = real_parts
    settings = stage_on(folder).config.model_dump() | {"weights_sha256": "0" * 64}
    (clip, _) = AestheticStage(AestheticConfig(**settings)).models()
    with pytest.raises(ConfigError, match=r"clip: .*sha256"):
        resolve_revision(clip)


def test_a_stand_in_goes_with_a_stand_in_only():
    for settings in ({"weights": "stand-in"}, {"head": "stand-in"}):
        with pytest.raises(ValidationError, match="both be stand-ins or both be real"):
            AestheticConfig(**settings)


@pytest.mark.parametrize(
    ("score", "reason"), [(5.5, None), (5.4999, "aesthetic_score_below_min"), (9.0, None)]
)
def test_exactly_at_the_threshold_is_kept(score, reason):
    row = {"aesthetic_score": score, "aesthetic_scores": [score, 9.0], "embedding": b""}
    assert AestheticStage(AestheticConfig(min_score=5.5)).reject_reason(row) == reason
    assert AestheticStage(AestheticConfig(min_score=None)).reject_reason(row) is None


def test_the_view_follows_the_settings():
    stage = AestheticStage(AestheticConfig(num_frames=5))
    assert stage.view("clip") == View(count=5, short_side=256)
    assert stage.view("image") == View()


def test_a_broken_image_is_failed_not_ugly(stand_in):
    (row,) = isolate(stand_in, [a_sample()], raises(DecodeError("image file is truncated")))
    assert (row.values, row.error_type) == ({}, "DecodeError")
