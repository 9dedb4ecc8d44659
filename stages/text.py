"""Drops what is mostly text: the area under the union of detected text boxes.

The detector is PP-OCRv4 mobile, with PaddleOCR's resizing, normalization and thresholds: as ONNX, run by
rapidocr, or by PaddleOCR itself. A recognizer reads boxes that cover much of a frame, and those in which it
reads nothing do not count.

What it gets wrong: handwriting is missed as a rule, and small print vanishes below its size in pixels. Round
things of middling size, such as the face of a clock, may be taken for text. Of large writing, a single
character and scripts that the recognizer does not know (it reads Chinese, English and digits) do not count.
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
from curation.pipeline.models import fetch
from curation.records import Sample, SampleKind
from curation.stage import (
    Column,
    KeepMax,
    Location,
    Media,
    ModelRef,
    Resources,
    Setup,
    Stage,
    StageConfig,
    View,
)

_MODELS = "package:rapidocr_onnxruntime/models"
_DETECTOR = f"{_MODELS}/ch_PP-OCRv4_det_infer.onnx"
_RECOGNIZER = f"{_MODELS}/ch_PP-OCRv4_rec_infer.onnx"

# What PaddleOCR's inference.yml says of its detectors, and what PaddleX 3.7 does by default.
_MEAN_BGR = (0.485, 0.456, 0.406)
_STD_BGR = (0.229, 0.224, 0.225)
_MIN_PIXEL_SCORE = 0.3
_UNCLIP_RATIO = 1.5
_STRIDE = 32
"""The network takes sides that are multiples of this."""
_FEWEST_CHARACTERS = 2
"""In every wrong box that was looked at, the recognizer read one character or none."""


class TextConfig(StageConfig):
    """Settings of the text filter. Emu3: video frames at 2 FPS with a short side of 256."""

    max_text_coverage: Annotated[float, KeepMax("text_coverage"), Field(ge=0, le=1)] | None = 0.1
    """Largest share of a frame that text may cover, 0..1; Emu3 does not publish its own."""
    backend: Literal["rapidocr", "paddleocr"] = "rapidocr"
    """Which library runs the detector; PaddleOCR is the extra `paddle`."""
    detector: Location = _DETECTOR
    """rapidocr: an ONNX file. PaddleOCR: a folder or hub name such as PaddlePaddle/PP-OCRv5_server_det."""
    revision: str | None = None
    """Revision of a hub name; its newest by default."""
    recognizer: Location | None = _RECOGNIZER
    """An ONNX file with its characters in it: reads large boxes. Null: all boxes count."""
    max_unread_box: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the frame, 0..1, above which a box counts only if two characters or more are read in it."""
    paddle_engine: Literal["paddle", "onnxruntime"] = "paddle"
    """What PaddleOCR computes with."""
    fps: Annotated[float, Field(gt=0)] = 2.0
    """Frames per second that are looked at in a clip."""
    short_side: Annotated[int, Field(ge=32)] = 256
    """Short side in pixels at which a clip's frames are looked at."""
    image_short_side: Annotated[int, Field(ge=32)] | None = None
    """Short side in pixels at which images are looked at; null: as decoded."""
    max_side: Annotated[int, Field(ge=32)] = 960
    """Longest side in pixels that the detector gets to see, of images and frames; PaddleOCR's own."""
    min_box_score: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Boxes that the detector is less sure of do not count; PaddleOCR's own."""

    @model_validator(mode="after")
    def _detector_fits(self) -> TextConfig:
        if (self.backend == "rapidocr") != self.detector.endswith(".onnx"):
            raise ValueError(
                "rapidocr takes a detector that is an .onnx file, paddleocr a folder or a hub name"
            )
        return self


class TextStage(Stage[TextConfig]):
    """Measures how much of a picture is covered by text."""

    name = "text"
    version = 2
    columns = {
        "text_coverage": Column(
            pa.float32(),
            "Largest over the frames of (area under the union of text boxes / frame area), 0..1.",
            exported=True,
        ),
        "text_coverage_mean": Column(pa.float32(), "Mean over the frames, 0..1."),
        "text_frame_fraction": Column(pa.float32(), "Share of frames with any text, 0..1."),
        "num_text_boxes": Column(pa.int32(), "Boxes in all frames together."),
    }
    Config = TextConfig

    def view(self, kind: SampleKind) -> View:
        if kind == "image":
            return View(short_side=self.config.image_short_side)
        return View(fps=self.config.fps, short_side=self.config.short_side)

    def resources(self) -> Resources:
        # In workers of its own: it has another framework's memory, which those of torch would not count.
        return Resources(gpu=self.config.backend == "paddleocr", group="text")

    def models(self) -> Sequence[ModelRef]:
        detector = ModelRef("detector", self.config.detector, self.config.revision)
        if self.config.recognizer is None:
            return (detector,)
        return (detector, ModelRef("recognizer", self.config.recognizer))

    def packages(self) -> Mapping[str, str]:
        return {"paddleocr": "paddle"} if self.config.backend == "paddleocr" else {}

    def distributions(self) -> Sequence[str]:
        return (
            ("onnxruntime", "rapidocr")
            if self.config.backend == "rapidocr"
            else ("paddleocr", "paddlepaddle")
        )

    def setup(self, setup: Setup) -> None:
        paths = {ref.role: fetch(ref, setup.revisions[ref.role]) for ref in self.models()}
        self._detector: _Detector
        if self.config.backend == "rapidocr":
            self._detector = _RapidDetector(paths["detector"], self.config)
        else:
            self._detector = _PaddleDetector(paths["detector"], self.config, setup.device)
        self._recognizer = _Recognizer(paths["recognizer"]) if "recognizer" in paths else None

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [self._measure_one(item.pixels) for item in media]

    def _measure_one(self, frames: NDArray[np.uint8]) -> dict[str, Any]:
        boxes = [self._boxes(frame) for frame in frames]
        coverage = [
            union_coverage(found, *frame.shape[:2]) for found, frame in zip(boxes, frames, strict=True)
        ]
        return {
            "text_coverage": max(coverage),
            "text_coverage_mean": float(np.mean(coverage)),
            "text_frame_fraction": float(np.mean([len(found) > 0 for found in boxes])),
            "num_text_boxes": sum(len(found) for found in boxes),
        }

    def _boxes(self, frame: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """The detector's boxes, without large ones in which nothing can be read."""
        found = self._detector.boxes(frame)
        recognizer = self._recognizer
        if recognizer is None:
            return found
        return [box for box in found if not self._is_large(box, frame) or recognizer.reads(frame, box)]

    def _is_large(self, box: NDArray[Any], frame: NDArray[np.uint8]) -> bool:
        return union_coverage([box], *frame.shape[:2]) > self.config.max_unread_box


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

    def __init__(self, folder: Path, config: TextConfig, device: str) -> None:
        try:
            from paddleocr import TextDetection
        except ImportError as error:
            raise MissingDependencyError(
                "backend: paddleocr needs the package paddleocr: pip install 'curation[paddle]'"
            ) from error
        engine = config.paddle_engine
        on_cpu = {"cpu_threads": 1, "enable_mkldnn": False} if engine == "paddle" and device == "cpu" else {}
        self._model = TextDetection(
            model_name=_model_name(folder),
            model_dir=str(folder),
            engine=engine,
            device="gpu" if device == "cuda" else "cpu",
            box_thresh=config.min_box_score,
            limit_side_len=config.max_side,
            limit_type="max",
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


def network_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Height and width in pixels that PaddleOCR gives a picture (its limit_type "max").

    Never enlarged, and rounded to multiples of 32.
    """
    scale = min(1.0, max_side / max(height, width))

    def side(pixels: int) -> int:
        return max(_STRIDE, round(int(pixels * scale) / _STRIDE) * _STRIDE)

    return side(height), side(width)


class _RapidDetector:
    """rapidocr's network and boxes between PaddleOCR's own resizing and normalization.

    rapidocr's own preparation takes 0.5 as mean and deviation of every channel, and leaves out frames with a
    side below 16 pixels.
    """

    def __init__(self, path: Path, config: TextConfig) -> None:
        engine = _rapidocr(
            {
                "Global.use_rec": False,
                "Det.model_path": str(path),
                "Det.thresh": _MIN_PIXEL_SCORE,
                "Det.box_thresh": config.min_box_score,
                "Det.unclip_ratio": _UNCLIP_RATIO,
                "Det.use_dilation": False,
            }
        )
        engine(np.zeros((64, 64, 3), np.uint8))  # the detector is built at the first call
        self._detector = engine.text_det
        self._max_side = config.max_side

    def boxes(self, frame: NDArray[np.uint8]) -> list[NDArray[Any]]:
        scores = self._detector.session(_network_input(frame, self._max_side))
        found, _ = self._detector.postprocess_op(scores, frame.shape[:2])
        return list(found)


def _network_input(frame: NDArray[np.uint8], max_side: int) -> NDArray[np.float32]:
    """[1, 3, H, W] of a [H, W, 3] RGB frame: BGR, normalized."""
    import cv2

    height, width = network_size(frame.shape[0], frame.shape[1], max_side)
    pixels = cv2.resize(np.ascontiguousarray(frame[..., ::-1]), (width, height))
    mean, deviation = np.array(_MEAN_BGR, np.float32), np.array(_STD_BGR, np.float32)
    normalized = (pixels.astype(np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(normalized.transpose(2, 0, 1)[np.newaxis])


class _Recognizer:
    """PP-OCR's text recognition, run by rapidocr."""

    def __init__(self, path: Path) -> None:
        from rapidocr.utils.process_img import get_rotate_crop_image

        self._cut = get_rotate_crop_image
        self._engine = _rapidocr({"Global.use_det": False, "Rec.model_path": str(path)})

    def reads(self, frame: NDArray[np.uint8], box: NDArray[Any]) -> bool:
        """Whether a [4, 2] box of a [H, W, 3] RGB frame holds two characters, upright or upside down."""
        line = self._cut(np.ascontiguousarray(frame[..., ::-1]), box.astype(np.float32))
        return any(self._num_characters(line[::step, ::step]) >= _FEWEST_CHARACTERS for step in (1, -1))

    def _num_characters(self, line: NDArray[np.uint8]) -> int:
        texts = self._engine(np.ascontiguousarray(line)).txts or ()
        return sum(len("".join(text.split())) for text in texts)


def _rapidocr(params: dict[str, Any]) -> Any:
    """A rapidocr engine on one thread: workers are the parallelism."""
    from rapidocr import RapidOCR

    common = {
        "Global.use_cls": False,
        "Global.log_level": "error",
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return RapidOCR(params=common | params)
