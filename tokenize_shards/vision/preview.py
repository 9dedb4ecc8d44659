"""Tokens decoded back to pixels beside the original, with PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.errors import TokenizeError
from curation.records import Sample
from curation.stage import Media, Setup
from curation.tokenize_shards.vision.stage import TokenStage, whole_groups
from curation.tokenize_shards.vision.tokenizer import TEMPORAL_FACTOR

MAX_PSNR_DB = 100.0
"""Given for equal frames too, whose PSNR is infinite."""
_GAP_PX = 4
_BAND_PX = 22


@dataclass(frozen=True)
class Preview:
    """One image, or the first four frames of a clip.

    Attributes:
        png: Originals on the left or on top, decoded frames on the right or below.
        psnr_db: Peak signal-to-noise ratio over all pixels, decibel, 100 at most.
        ssim: Structural similarity, mean over frames and channels, -1..1.
    """

    png: bytes
    psnr_db: float
    ssim: float


class Previewer:
    """Decodes what a token stage encoded."""

    def __init__(self, stage: TokenStage, setup: Setup) -> None:
        """Load the stage's tokenizer with its decoder."""
        self._tokenizer = stage.load(setup, decodes=True)
        self._untrained = any(ref.stand_in for ref in stage.models())

    def preview(
        self, sample: Sample, media: Media, values: Mapping[str, Any], *, max_side_px: int = 512
    ) -> Preview:
        """Compare frames with the `values` that the stage measured of them.

        Raises:
            TokenizeError: the frames are not those that were encoded.
        """
        is_image = sample.kind == "image"
        original = (media.pixels if is_image else whole_groups(media.pixels))[:TEMPORAL_FACTOR]
        shape = values["grid_t"], values["grid_h"], values["grid_w"]
        # A grid's first group tells its first four frames, whatever follows; the rest would take memory.
        grid = np.frombuffer(values["codes"], "<u2").reshape(shape)[:1]
        decoded = self._tokenizer.decode(grid.astype(np.uint16), is_image=is_image)
        if decoded.shape != original.shape:
            raise TokenizeError(f"the tokens are of {decoded.shape}, the source gives {original.shape} now")
        psnr_db = psnr(original, decoded)
        similarity = float(np.mean([ssim(*pair) for pair in zip(original, decoded, strict=True)]))
        caption = f"original | decoded  PSNR {psnr_db:.1f} dB  SSIM {similarity:.3f}"
        if self._untrained:
            caption = f"UNTRAINED  {caption}"
        return Preview(_png(original, decoded, caption, max_side_px), psnr_db, similarity)


def psnr(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """10 log10(255^2 / mean squared error), decibel, over arrays of one shape."""
    error = float(np.mean((original.astype(np.float64) - decoded) ** 2))
    return MAX_PSNR_DB if error == 0 else min(MAX_PSNR_DB, float(10 * np.log10(255**2 / error)))


def ssim(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """Structural similarity of two [H, W, 3] frames of 11 pixels or more, mean over channels.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861): Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01,
    K2 = 0.03, where the window lies inside the frame.
    """
    first, second = original.astype(np.float64), decoded.astype(np.float64)
    mean_1, mean_2 = _windowed(first), _windowed(second)
    variance_1 = _windowed(first**2) - mean_1**2
    variance_2 = _windowed(second**2) - mean_2**2
    covariance = _windowed(first * second) - mean_1 * mean_2
    steady, steady_contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_1 * mean_2 + steady) / (mean_1**2 + mean_2**2 + steady)
    structure = (2 * covariance + steady_contrast) / (variance_1 + variance_2 + steady_contrast)
    return float((luminance * structure).mean())


def _windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    blurred: NDArray[np.float64] = cv2.GaussianBlur(values, (11, 11), 1.5)
    return blurred[5:-5, 5:-5]


def _png(original: NDArray[np.uint8], decoded: NDArray[np.uint8], caption: str, max_side_px: int) -> bytes:
    pairs = [_row([_shrunk(frame, max_side_px) for frame in frames]) for frames in (original, decoded)]
    # Single frames side by side, series one above the other.
    picture = (
        _row(pairs) if len(original) == 1 else _row([pair.swapaxes(0, 1) for pair in pairs]).swapaxes(0, 1)
    )
    width = max(picture.shape[1], 9 * len(caption))
    page = np.full((picture.shape[0] + _BAND_PX, width, 3), 255, np.uint8)
    page[_BAND_PX:, : picture.shape[1]] = picture
    cv2.putText(page, caption, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    _, png = cv2.imencode(".png", np.ascontiguousarray(page[..., ::-1]))
    return bytes(png)


def _shrunk(frame: NDArray[np.uint8], max_side_px: int) -> NDArray[np.uint8]:
    scale = max_side_px / max(frame.shape[:2])
    if scale >= 1:
        return frame
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    shrunk: NDArray[np.uint8] = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return shrunk


def _row(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((frames[0].shape[0], _GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for frame in frames for part in (gap, frame)][1:], axis=1)
