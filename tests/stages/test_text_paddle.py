"""PaddleOCR's own engine. It pins its own OpenCV: `make test-paddle` runs this in its own environment."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from curation.errors import ConfigError, MissingDependencyError
from curation.models import resolve_revision
from curation.records import Sample, Source
from curation.stage import Media, Setup
from stages.text import TextConfig, TextStage

pytestmark = pytest.mark.filterwarnings("default")  # Paddle warns on import, of compilers and the like
needs_paddle = pytest.mark.skipif(
    importlib.util.find_spec("paddleocr") is None, reason="paddleocr is not installed; see make test-paddle"
)


def stage_for(folder: Path) -> TextStage:
    stage = TextStage(TextConfig(backend="paddleocr", detector=str(folder), image_short_side=1024))
    stage.setup(Setup("cpu", {"detector": resolve_revision(stage.models()[0])}))
    return stage


def coverage(stage: TextStage, pixels: np.ndarray) -> float:
    source = Source(source_id="s", uri="a", kind="image", size_bytes=1, etag="e")
    (row,) = stage.measure([Sample.of_image(source)], [Media(source, pixels[None], np.zeros(1))])
    assert set(row) == set(TextStage.columns)
    return float(row["text_coverage"])


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddleocr", None)
    (tmp_path / "inference.yml").write_text("Global: {model_name: PP-OCRv4_mobile_det}\n")
    with pytest.raises(MissingDependencyError, match=r"curation\[paddle\]"):
        stage_for(tmp_path)


def test_detector_must_fit_the_backend() -> None:
    for settings in ({"backend": "paddleocr"}, {"detector": "PaddlePaddle/PP-OCRv5_server_det"}):
        with pytest.raises(ValueError, match=r"rapidocr takes a detector that is an \.onnx file"):
            TextConfig(**settings)


@needs_paddle
def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(ConfigError, match="names none"):
        stage_for(tmp_path)


@needs_paddle
def test_published_coverage(shared_data: Path) -> None:
    """text_area_ppocrv4: the same weights by PaddleOCR's command of its own, at resize_long 960; 15 %."""
    stage = stage_for(shared_data / "weights/PP-OCRv4_mobile_det_paddle")
    values = json.loads((shared_data / "expected.json").read_text())["text_area_ppocrv4"]["values"]
    for name in ("rocr_ch_en_num.jpg", "sk_page.png", "rocr_japan.jpg", "sk_astronaut.png"):
        pixels = np.asarray(Image.open(shared_data / "image" / name).convert("RGB"))
        assert coverage(stage, pixels) == pytest.approx(values[name][1], rel=0.15, abs=0.01), name


@needs_paddle
def test_more_text_covers_more(shared_data: Path) -> None:
    stage = stage_for(shared_data / "weights/PP-OCRv4_mobile_det_paddle")
    found = []
    for num_lines in (0, 2, 6):
        picture = Image.new("RGB", (640, 480), "white")
        for line in range(num_lines):
            place = (20, 20 + 70 * line)
            ImageDraw.Draw(picture).text(place, "THANKS FOR WATCHING", "black", ImageFont.load_default(40))
        found.append(coverage(stage, np.asarray(picture)))
    assert found[0] == 0
    assert found[0] < found[1] < found[2]
