"""The token stage: rows of images and clips, and where its weights come from."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from curation.errors import ConfigError, TokenizeError
from curation.execution.worker.measure import isolate
from curation.ledger import schemas
from curation.media.resize import resize
from curation.pipeline.models import resolve_revision
from curation.records import Row, Sample, Source
from curation.stage import Media, Setup
from curation.tokenize_shards.documents.document import DocumentConfig
from curation.tokenize_shards.vision.emu3 import Emu3Tokenizer
from curation.tokenize_shards.vision.sizes import Emu3Sizes
from curation.tokenize_shards.vision.stage import TokenConfig, TokenStage
from curation.tokenize_shards.vision.tokenizer import Precision
from datasets_media import Bench, config_data

SOURCE = Source(source_id="source", uri="file", kind="video", size_bytes=1, etag="1")
IMAGE = Sample(sample_id="image", source_id="source", kind="image")
CLIP = Sample.of_span("source", 0.0, 2.0)


def noise(count: int, height: int, width: int) -> NDArray[np.uint8]:
    frames = np.random.default_rng(count).integers(0, 256, (count, height, width, 3)).astype(np.uint8)
    frames.setflags(write=False)  # as they come out of the object store
    return frames


def media(frames: NDArray[np.uint8]) -> Media:
    return Media(SOURCE, frames, np.arange(len(frames)) / 4)


def grid_of(row: dict[str, Any]) -> NDArray[np.uint16]:
    return np.frombuffer(row["codes"], "<u2").reshape(row["grid_t"], row["grid_h"], row["grid_w"])


@pytest.fixture(scope="module")
def stage() -> TokenStage:
    built: TokenStage = pickle.loads(pickle.dumps(TokenStage(TokenConfig(weights="stand-in"))))
    built.setup(Setup("cpu", {"tokenizer": "stand-in"}))
    return built


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "weights"),
        ({"weights": "stand-in", "max_frames": 6}, "multiple of 4"),
        ({"weights": "stand-in", "max_frames": 0}, "max_frames"),
        ({"weights": "stand-in", "area": 100}, "area"),
        ({"weights": "stand-in", "area": True}, "area"),
        (
            {"weights": "stand-in", "area": [1048576, 262144]},
            r"\[smallest, largest\], not \[1048576, 262144\]",
        ),
        ({"weights": "stand-in", "area": [262144]}, r"a pair of them, .*, not \[262144\]"),
        ({"weights": "stand-in", "area": [4096, 262144, 1048576]}, "a pair of them"),
        ({"weights": "stand-in", "area": [0, 262144]}, "from 4096 to 4194304"),
        ({"weights": "stand-in", "area": [-262144, 262144]}, "from 4096 to 4194304"),
        ({"weights": "stand-in", "area": ["512", 262144]}, "a number of pixels"),
        ({"weights": "stand-in", "fsp": 4.0}, "fsp"),
        ({"weights": "stand-in", "precision": "fp16"}, "precision"),
        ({"weights": "stand-in", "tokenizer": "emu"}, "no tokenizer 'emu'; known are emu3"),
    ],
)
def test_config_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TokenConfig(**settings)


def test_views_fit_the_tokenizer() -> None:
    stage = TokenStage(TokenConfig(weights="stand-in", area=720 * 720, fps=2.0, max_frames=16))
    image, clip = stage.view("image"), stage.view("clip")
    assert (image.sizing, image.fps) == (Emu3Sizes(518_400), None)
    assert (clip.sizing, clip.fps, clip.max_frames) == (Emu3Sizes(518_400), 2.0, 16)


# By hand, as in tests/media/test_resize.py: facts of Emu3's data preparation.
@pytest.mark.parametrize(
    ("area", "stored", "meta"),
    [
        (512 * 512, (720, 1280), "48*86"),
        ([512 * 512, 1024 * 1024], (552, 728), "69*91"),
        ([512 * 512, 1024 * 1024], (100, 100), "64*64"),
    ],
)
def test_grid_and_meta_are_those_of_emu3(
    stand_in: Emu3Tokenizer, area: Any, stored: tuple[int, int], meta: str
) -> None:
    stage = TokenStage(TokenConfig(weights="stand-in", area=area))
    stage.setup(Setup("cpu", {"tokenizer": "stand-in"}))
    pixels = resize(noise(1, *stored)[0], stage.view("image"))
    (row,) = stage.measure([IMAGE], [media(pixels[None])])
    assert DocumentConfig().meta("image", grid_of(row).shape, None) == meta


def test_image_row(stage: TokenStage, stand_in: Emu3Tokenizer) -> None:
    frames = noise(1, 48, 72)
    (row,) = stage.measure([IMAGE], [media(frames)])
    assert row.keys() == set(TokenStage.columns)
    assert (row["grid_t"], row["grid_h"], row["grid_w"], row["fps"]) == (1, 6, 9, None)
    assert len(row["codes"]) == 2 * 54
    np.testing.assert_array_equal(grid_of(row), stand_in.encode([frames])[0])


def test_clip_row(stage: TokenStage, stand_in: Emu3Tokenizer) -> None:
    frames = noise(8, 64, 24)
    (row,) = stage.measure([CLIP], [media(frames)])
    assert (row["grid_t"], row["grid_h"], row["grid_w"], row["fps"]) == (2, 8, 3, 4.0)
    np.testing.assert_array_equal(grid_of(row), stand_in.encode([frames])[0])


def test_batch_equals_singles_and_fits_the_ledger(stage: TokenStage) -> None:
    samples, items = [IMAGE, CLIP], [media(noise(1, 32, 32)), media(noise(4, 32, 40))]
    rows = stage.measure(samples, items)
    assert rows == [
        row for sample, item in zip(samples, items, strict=True) for row in stage.measure([sample], [item])
    ]
    stored = schemas.rows_to_table([Row(str(at), row) for at, row in enumerate(rows)], TokenStage.columns)
    assert [row.values for row in schemas.table_to_rows(stored)] == rows


def test_frames_over_a_group_of_four_are_dropped(stage: TokenStage) -> None:
    frames = noise(7, 32, 32)
    (row,), (expected,) = (stage.measure([CLIP], [media(part)]) for part in (frames, frames[:4]))
    assert row == expected
    assert row["grid_t"] == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_short_clip_holds_its_last_frame(stage: TokenStage, stand_in: Emu3Tokenizer, count: int) -> None:
    frames = noise(count, 32, 32)
    (row,) = stage.measure([CLIP], [media(frames)])
    held = np.stack([frames[min(at, count - 1)] for at in range(4)])
    np.testing.assert_array_equal(grid_of(row), stand_in.encode([held])[0])


def test_sizes_that_do_not_fit_fail_the_sample(stage: TokenStage) -> None:
    with pytest.raises(TokenizeError, match="30x32"):
        stage.measure([IMAGE], [media(noise(1, 32, 30))])


@pytest.mark.parametrize(("width", "error"), [(160, None), (161, "UnsupportedMediaError")])
def test_aspect_ratio_above_five_fails_the_sample_alone(
    stage: TokenStage, width: int, error: str | None
) -> None:
    pixels = {"wide": noise(1, 32, width), "image": noise(1, 32, 32)}

    def media_of(sample: Sample, view: Any) -> Media:
        return media(resize(pixels[sample.sample_id][0], replace(view, sizing=Emu3Sizes(64 * 64)))[None])

    samples = [replace(IMAGE, sample_id=name) for name in pixels]
    wide, other = isolate(stage, samples, media_of)
    assert (wide.error_type, other.error_type) == (error, None)
    assert error is None or wide.error == "aspect ratio of 161x32 is above 5"


def test_one_call_for_each_shape(stage: TokenStage, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[int, ...]]] = []
    encode = stage._tokenizer.encode
    monkeypatch.setattr(
        stage._tokenizer,
        "encode",
        lambda batch: (seen.append([item.shape for item in batch]), encode(batch))[1],
    )
    frames = [noise(1, 16, 24), noise(4, 16, 24), noise(1, 24, 16), noise(1, 16, 24), noise(5, 16, 24)]
    samples = [IMAGE if len(item) == 1 else CLIP for item in frames]
    rows = stage.measure(samples, [media(item) for item in frames])
    assert [len(batch) for batch in seen] == [2, 2, 1]
    assert all(len(set(batch)) == 1 for batch in seen)
    assert [row["grid_h"] for row in rows] == [2, 2, 3, 2, 2]


def test_precision_is_declared_and_changes_the_measurement() -> None:
    precisions = get_args(Precision)
    stages = [TokenStage(TokenConfig(weights="stand-in", precision=precision)) for precision in precisions]
    assert [stage.models()[0].precision for stage in stages] == list(precisions)
    settings = [repr(stage.measure_settings()) for stage in stages]  # what fingerprints are made of
    assert len(set(settings)) == 4


def test_bf16_has_a_fingerprint_of_its_own_since_steps_are_rounded_together() -> None:
    # By hand: the settings as they were, which outputs of before stand under, and one more.
    settings = TokenStage(TokenConfig(weights="stand-in", precision="bf16")).measure_settings()
    before = TokenConfig(weights="stand-in", precision="bf16").model_dump(mode="json")
    assert settings == before | {"fused": True}


def test_precision_that_this_machine_lacks_stops_the_run_and_records_nothing(
    media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    tokens = {"weights": "stand-in", "area": 4096, "precision": "tf32"}
    bench = Bench(config_data(media, tmp_path / "out", vocabulary, tokens=tokens))
    with pytest.raises(ConfigError, match=r"tokens can't be set up: tokens\.precision: tf32 is computed by"):
        bench.run()
    assert not bench.rows("tokens")


def test_tokens_are_decoded_on_a_machine_that_could_not_encode_them(stand_in: Emu3Tokenizer) -> None:
    built = TokenStage(TokenConfig(weights="stand-in", precision="tf32"))
    (grid,) = stand_in.encode([noise(1, 32, 32)])
    decoder = built.load(Setup("cpu", {"tokenizer": "stand-in"}), decodes=True)
    np.testing.assert_array_equal(decoder.decode(grid, is_image=True), stand_in.decode(grid, is_image=True))


def test_tokenizer_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "class Flat:\n"
        "    def encode(self, batch):\n"
        "        return [np.full((1, f.shape[1] // 8, f.shape[2] // 8), 7, np.uint16) for f in batch]\n"
        "def load_flat(folder, device, precision, *, decodes):\n"
        "    return Flat()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    built = TokenStage(TokenConfig(weights="stand-in", tokenizer="mine:load_flat"))
    built.setup(Setup("cpu", {"tokenizer": "stand-in"}))
    (row,) = built.measure([IMAGE], [media(noise(1, 16, 24))])
    np.testing.assert_array_equal(grid_of(row), np.full((1, 2, 3), 7))


def test_stand_in_is_declared() -> None:
    (model,) = TokenStage(TokenConfig(weights="stand-in")).models()
    assert model.stand_in
    (model,) = TokenStage(TokenConfig(weights="some/tokenizer", revision="v1")).models()
    assert (model.stand_in, model.name, model.revision) == (False, "some/tokenizer", "v1")


def test_weights_from_a_folder(stage: TokenStage, stand_in: Emu3Tokenizer, tmp_path: Path) -> None:
    stand_in.model.save_pretrained(tmp_path)
    from_folder = TokenStage(TokenConfig(weights=str(tmp_path)))
    (model,) = from_folder.models()
    planned = Setup("cpu", {"tokenizer": resolve_revision(model)})
    from_folder.setup(planned)
    item = media(noise(4, 32, 48))
    assert from_folder.measure([CLIP], [item]) == stage.measure([CLIP], [item])

    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    with pytest.raises(ConfigError, match="differs from the one that this run was planned with"):
        TokenStage(TokenConfig(weights=str(tmp_path))).setup(planned)
