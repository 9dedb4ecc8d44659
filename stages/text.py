"""Drops what is mostly text: the area under the union of detected text boxes.

The detector is PP-OCR's: as ONNX from the rapidocr package, whose weights come with it, or by PaddleOCR.
It runs at the view's own size: left to itself it enlarges a 256-pixel frame to 736, at ten times the cost.

What it gets wrong: handwriting is missed as a rule, a saucer, a globe or one large digit may be taken for
text, and small print vanishes below its size in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation.errors import ConfigError, MissingDependencyError
from curation.models import fetch
from curation.records import Sample, SampleKind
from curation.stage import KeepMax, Location, Media, ModelRef, Setup, Stage, StageConfig, View

_RAPIDOCR_DETECTOR = "package:rapidocr/models/PP-OCRv6_det_small.onnx"
_SMALLEST_SIDE = 32
"""Only frames with a smaller side are enlarged, and no view may be smaller."""


class TextConfig(StageConfig):
    """Settings of the text filter. Emu3: video frames at 2 FPS with a short side of 256."""

    max_text_coverage: Annotated[float, KeepMax("text_coverage"), Field(ge=0, le=1)] | None = 0.1
    """Largest share of a frame that text may cover, 0..1; Emu3 does not publish its own."""
    backend: Literal["rapidocr", "paddleocr"] = "rapidocr"
    """Which library runs the detector; PaddleOCR is the extra `paddle`."""
    detector: Location = _RAPIDOCR_DETECTOR
    """rapidocr: an ONNX file. PaddleOCR: a folder or hub name such as PaddlePaddle/PP-OCRv5_server_det."""
    revision: str | None = None
    """Revision of a hub name; its newest by default."""
    paddle_engine: Literal["paddle", "onnxruntime"] = "paddle"
    """What PaddleOCR computes with."""
    fps: Annotated[float, Field(gt=0)] = 2.0
    """Frames per second that are looked at in a clip."""
    short_side: Annotated[int, Field(ge=32)] = 256
    """Short side in pixels at which a clip's frames are looked at."""
    image_short_side: Annotated[int, Field(ge=32)] = 512
    """Short side in pixels at which images are looked at."""
    min_box_score: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Boxes that the detector is less sure of do not count."""

    @model_validator(mode="after")
    def _detector_fits(self) -> TextConfig:
        if (self.backend == "rapidocr") != self.detector.endswith(".onnx"):
            raise ValueError(
                "rapidocr takes a detector that is an .onnx file, paddleocr a folder or a hub name"
            )
        return self


class TextStage(Stage[TextConfig]):
    """Measures how much of a picture is covered by text.

    Columns:
        text_coverage: Largest over the frames of (area under the union of text boxes / frame area), 0..1.
        text_coverage_mean: Mean over the frames, 0..1.
        text_frame_fraction: Share of frames with any text, 0..1.
        num_text_boxes: Boxes in all frames together.
    """

    name = "text"
    columns = {
        "text_coverage": pa.float32(),
        "text_coverage_mean": pa.float32(),
        "text_frame_fraction": pa.float32(),
        "num_text_boxes": pa.int32(),
    }
    Config = TextConfig

    def view(self, kind: SampleKind) -> View:
        if kind == "image":
            return View(short_side=self.config.image_short_side)
        return View(fps=self.config.fps, short_side=self.config.short_side)

    def models(self) -> Sequence[ModelRef]:
        return (ModelRef("detector", self.config.detector, self.config.revision),)

    def packages(self) -> Mapping[str, str]:
        return {"paddleocr": "paddle"} if self.config.backend == "paddleocr" else {}

    def setup(self, setup: Setup) -> None:
        path = fetch(self.models()[0], setup.revisions["detector"])
        self._detector: _Detector
        if self.config.backend == "rapidocr":
            self._detector = _RapidDetector(path, self.config.min_box_score)
        else:
            engine = self.config.paddle_engine
            self._detector = _PaddleDetector(path, engine, self.config.min_box_score, setup.device)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [self._measure_one(item.pixels) for item in media]

    def _measure_one(self, frames: NDArray[np.uint8]) -> dict[str, Any]:
        boxes = [self._detector.boxes(frame) for frame in frames]
        coverage = [
            union_coverage(found, *frame.shape[:2]) for found, frame in zip(boxes, frames, strict=True)
        ]
        return {
            "text_coverage": max(coverage),
            "text_coverage_mean": float(np.mean(coverage)),
            "text_frame_fraction": float(np.mean([len(found) > 0 for found in boxes])),
            "num_text_boxes": sum(len(found) for found in boxes),
        }


def union_coverage(boxes: Sequence[NDArray[Any]], height: int, width: int) -> float:
    """Share of a height x width frame under at least one of the polygons ([N, 2] x, y), 0..1."""
    import cv2

    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        cv2.fillPoly(mask, [np.rint(box).astype(np.int32)], 1)
    return float(mask.mean())


class _Detector(Protocol):
    def boxes(self, frame: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Text boxes of a [H, W, 3] RGB frame as [4, 2] arrays of x, y."""


class _PaddleDetector:
    """PaddleOCR's text detection."""

    def __init__(self, folder: Path, engine: str, min_box_score: float, device: str) -> None:
        try:
            from paddleocr import TextDetection
        except ImportError as error:
            raise MissingDependencyError(
                "backend: paddleocr needs the package paddleocr: pip install 'curation[paddle]'"
            ) from error
        on_cpu = {"cpu_threads": 1, "enable_mkldnn": False} if engine == "paddle" and device == "cpu" else {}
        self._model = TextDetection(
            model_name=_model_name(folder),
            model_dir=str(folder),
            engine=engine,
            device="gpu" if device == "cuda" else "cpu",
            box_thresh=min_box_score,
            limit_side_len=_SMALLEST_SIDE,
            limit_type="min",
            **on_cpu,
        )

    def boxes(self, frame: NDArray[np.uint8]) -> list[NDArray[Any]]:
        (found,) = self._model.predict(np.ascontiguousarray(frame[..., ::-1]))
        return list(found["dt_polys"])


def _model_name(folder: Path) -> str:
    """PaddleOCR wants to be told what the folder says."""
    try:
        return str(yaml.safe_load((folder / "inference.yml").read_text("utf-8"))["Global"]["model_name"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"{folder} is no PaddleOCR model: its inference.yml names none") from error


class _RapidDetector:
    """rapidocr's text detection on one thread: workers are the parallelism."""

    def __init__(self, path: Path, min_box_score: float) -> None:
        from rapidocr import RapidOCR

        engine = RapidOCR(
            params={
                "Global.use_cls": False,
                "Global.use_rec": False,
                "Global.log_level": "error",
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.model_path": str(path),
                "Det.box_thresh": min_box_score,
                "Det.limit_side_len": _SMALLEST_SIDE,
                "Det.limit_type": "min",
            }
        )
        engine(np.zeros((64, 64, 3), np.uint8))  # the detector is built at the first call
        self._detect = engine.text_det

    def boxes(self, frame: NDArray[np.uint8]) -> list[NDArray[Any]]:
        found = self._detect(np.ascontiguousarray(frame[..., ::-1])).boxes
        return [] if found is None else list(found)
