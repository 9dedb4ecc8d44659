"""Stages that count their calls, kill their process or hang; chosen by `stages:` in a configuration."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from curation.captioner.stage import CaptionStage
from curation.errors import DecodeError, WorkerError
from curation.ingest.containers.reader import Container, Inventory
from curation.ingest.containers.tars import TarReader
from curation.media.frame import Frame
from curation.records import Sample, Source
from curation.splitter import CutFinder, Infer, Span
from curation.stage import Media, ModelRef, Setup
from curation.stages.color import ColorStage
from curation.stages.scenes.splitter import ScenesSplitter
from curation.tokenize_shards.vision.stage import TokenStage

CALLS = "CURATION_TEST_CALLS"
"""Environment variable: the file that calls are noted in, one sample id a line."""
INPUT = "CURATION_TEST_INPUT"
"""Environment variable: the input that `UnmountingColor` takes away."""
UNLOADABLE = "CURATION_TEST_UNLOADABLE"
"""Environment variable: what is wrong with `UnloadableColor`."""


def _load_damaged_weights() -> None:
    from safetensors import safe_open

    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(struct.pack("<Q", 8) + b"no JSON." + bytes(64))
        file.flush()
        safe_open(file.name, framework="numpy")


def _import_damaged_library() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"no_library{EXTENSION_SUFFIXES[0]}").write_text("not what the loader expects")
        sys.path.insert(0, folder)
        try:
            importlib.import_module("no_library")
        finally:
            sys.path.remove(folder)


def _raise(error: BaseException) -> None:
    raise error


SETUP_TROUBLES: Mapping[str, Callable[[], Any]] = {
    "missing file": lambda: Path("/nowhere/weights.pt").read_bytes(),
    "damaged weights": _load_damaged_weights,
    "missing package": lambda: importlib.import_module("no_such_package"),
    "damaged library": _import_damaged_library,
    "missing library": lambda: ctypes.CDLL("libnosuchthing.so.1"),
    "no memory": lambda: bytearray(1 << 62),
    "assertion": lambda: _raise(AssertionError("a kernel is missing")),
    "sys.exit": lambda: sys.exit("no license"),
    "sample's error": lambda: _raise(DecodeError("the reference picture can't be decoded")),
    "worker's error": lambda: _raise(WorkerError("the engine died")),
}
"""What a stage's `setup` may meet, each as it really happens."""


class CountingColor(ColorStage):
    """Notes every sample that its model is called for."""

    name = "counting_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        with Path(os.environ[CALLS]).open("a") as file:
            file.writelines(f"{sample.sample_id}\n" for sample in samples)
        return super().measure(samples, media)


class DeadlyTars(ColorStage):
    """In a worker, listing a tar called poison kills the process, and one called hanging hangs."""

    name = "deadly_tars"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        read = TarReader.list

        def list_or_die(reader: TarReader, container: Container, on_progress: Any) -> Inventory:
            if "poison" in container.path:
                os.kill(os.getpid(), signal.SIGKILL)
            if "hanging" in container.path:
                time.sleep(3600)
            return read(reader, container, on_progress)

        TarReader.list = list_or_die  # type: ignore[method-assign]


class DeadlyColor(ColorStage):
    """Dies with its process, as of a decoder's segmentation fault, on one file."""

    name = "deadly_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if any("photo1" in item.source.uri for item in media):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(samples, media)


class OnceDeadlyColor(ColorStage):
    """Dies once: the first worker that comes here."""

    name = "once_deadly_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        mark = Path(os.environ[CALLS])
        if not mark.exists():
            mark.write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(samples, media)


class HangingColor(ColorStage):
    """Never comes back from one file."""

    name = "hanging_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if any("photo1" in item.source.uri for item in media):
            time.sleep(3600)
        return super().measure(samples, media)


class LeakingColor(ColorStage):
    """Keeps 200 MB more with every batch."""

    name = "leaking_color"
    kept: ClassVar[list[bytes]] = []

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        self.kept.append(os.urandom(1) * 200_000_000)
        return super().measure(samples, media)


class NotANumberColor(ColorStage):
    """Breaks the contract."""

    name = "not_a_number_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [row | {"colorfulness": float("nan")} for row in super().measure(samples, media)]


class Depth(TokenStage):
    """Adds to kept samples what no stage of ours does."""

    name = "depth"
    produces = "depth_codes"


class NotingCaptions(CaptionStage):
    """Notes the samples of each batch, one batch a line."""

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        with Path(os.environ[CALLS]).open("a") as file:
            file.write(" ".join(sample.sample_id for sample in samples) + "\n")
        return super().measure(samples, media)


class AssertingScenes(ScenesSplitter):
    """Asserts something of the frames of one file, as PySceneDetect does when times run backwards."""

    def start(
        self, source: Source, *, keeps_frame_metrics: bool = False, infer: Infer | None = None
    ) -> CutFinder:
        finder = super().start(source, keeps_frame_metrics=keeps_frame_metrics, infer=infer)
        return _Asserting(finder) if "b.mp4" in source.uri else finder


class _Asserting(CutFinder):
    def __init__(self, finder: CutFinder) -> None:
        self._finder = finder

    @property
    def readings(self) -> Sequence[Any]:  # type: ignore[override]
        return self._finder.readings

    @property
    def open_from_s(self) -> float | None:
        return self._finder.open_from_s

    def push(self, frame: Frame) -> Iterable[Span]:
        if frame.pts_s > 1.5:
            raise AssertionError("time runs backwards")
        return self._finder.push(frame)

    def finish(self, end_s: float) -> Iterable[Span]:
        return self._finder.finish(end_s)


class UnloadableColor(ColorStage):
    """Can't be set up: `UNLOADABLE` names what is wrong, one of `SETUP_TROUBLES`."""

    name = "unloadable_color"

    def setup(self, setup: Setup) -> None:
        SETUP_TROUBLES[os.environ[UNLOADABLE]]()


TROUBLE = "CURATION_TEST_TROUBLE"
"""Environment variable: what `TroubledColor` meets, one of `TROUBLES`; unset: nothing."""


def _lose_gpu() -> None:
    import torch

    raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be")


def _fill_disk() -> None:
    with open("/dev/full", "wb") as file:  # noqa: PTH123
        file.write(b"more than there is room for")


TROUBLES: Mapping[str, Callable[[], Any]] = {
    "GPU lost": _lose_gpu,
    "disk full": _fill_disk,
    "package damaged": _import_damaged_library,
}
"""What may happen to this machine while a stage measures."""


class TroubledColor(ColorStage):
    """Meets a trouble of this machine when it comes to e.jpg."""

    name = "troubled_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if TROUBLE in os.environ and any("e.jpg" in item.source.uri for item in media):
            TROUBLES[os.environ[TROUBLE]]()
        return super().measure(samples, media)


class UnmountingColor(ColorStage):
    """Takes the input away, named by an environment variable, when it has measured a.jpg."""

    name = "unmounting_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        folder = os.environ.get(INPUT)
        if folder and any("a.jpg" in item.source.uri for item in media):
            Path(folder).rename(f"{folder}.away")
        return super().measure(samples, media)


def _note_process() -> None:
    with Path(os.environ[CALLS]).open("a") as file:
        file.write(f"{os.getpid()}\n")


class LoadingColor(ColorStage):
    """Loads its model for ever; notes its process."""

    name = "loading_color"

    def setup(self, setup: Setup) -> None:
        _note_process()
        time.sleep(3600)


class SleepingColor(ColorStage):
    """Never comes back; notes its process."""

    name = "sleeping_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        _note_process()
        time.sleep(3600)
        return []


class LockedColor(ColorStage):
    """Never comes back from C code that keeps Python's lock, so that no thread of its process goes on."""

    name = "locked_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        _note_process()
        ctypes.PyDLL(None).sleep(3600)
        return []


def _is_culprit(media: Sequence[Media]) -> bool:
    return any("photo1" in item.source.uri for item in media)


class LockingColor(ColorStage):
    """Keeps Python's lock for ever over one file, as a library that was written badly."""

    name = "locking_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if _is_culprit(media):
            ctypes.PyDLL(None).sleep(3600)
        return super().measure(samples, media)


class StoppingColor(ColorStage):
    """Stops its process over one file."""

    name = "stopping_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if _is_culprit(media):
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().measure(samples, media)


class NotingColor(ColorStage):
    """Takes its time, notes when it began with which file, and dies over one."""

    name = "noting_color"
    batch_size = 1

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        with Path(os.environ[CALLS]).open("a") as file:
            file.writelines(f"{Path(item.source.uri).name}\n" for item in media)
        if _is_culprit(media):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return super().measure(samples, media)


class HungColor(ColorStage):
    """Notes that it has come to a file, and never comes back."""

    name = "hung_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        Path(os.environ[CALLS]).write_text("here")
        time.sleep(3600)
        return super().measure(samples, media)


class SlowlyUnpickledColor(ColorStage):
    """Takes its time to arrive in a worker, which is starting meanwhile."""

    name = "slowly_unpickled_color"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        time.sleep(60)


class GatedColor(ColorStage):
    """Notes its node and the file, and waits until somebody makes the file `gate` beside its notes."""

    name = "gated_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        import ray

        notes = Path(os.environ[CALLS])
        with notes.open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()} {Path(media[0].source.uri).name}\n")
        while not notes.with_name("gate").exists():
            time.sleep(0.05)
        return super().measure(samples, media)


class SpeakingColor(ColorStage):
    """Prints the URI of what it measures."""

    name = "speaking_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        for item in media:
            sys.stdout.write(f"looking at {item.source.uri}\n")
            sys.stdout.flush()
        return super().measure(samples, media)


class SlowColor(ColorStage):
    """Takes a second for each picture."""

    name = "slow_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        time.sleep(1.0 * len(samples))
        return super().measure(samples, media)


class TerminalColor(SlowColor):
    """Starts a program that changes how its terminal reads, if it has one, as `ffmpeg` does."""

    name = "terminal_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        change = "import termios; termios.tcsetattr(0, termios.TCSADRAIN, termios.tcgetattr(0))"
        subprocess.run([sys.executable, "-c", change], stderr=subprocess.DEVNULL, check=False)
        return super().measure(samples, media)


class WaitingColor(ColorStage):
    """Waits until there is a file `go` beside the input; not for ever."""

    name = "waiting_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        go = Path(media[0].source.uri).parent.parent / "go"
        deadline = time.monotonic() + 240
        while not go.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return super().measure(samples, media)


class PacedColor(ColorStage):
    """Takes a moment over each picture, as a real model does, so that a run has moments to be killed at."""

    name = "paced_color"
    batch_size = 1

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        time.sleep(0.05 * len(samples))
        return super().measure(samples, media)


class QuickTokens(TokenStage):
    """Tokens that need no model: the mean of each 8 x 8 block. Takes a moment over each sample."""

    name = "quick_tokens"
    batch_size = 1

    def models(self) -> Sequence[ModelRef]:
        return ()

    def setup(self, setup: Setup) -> None:
        self._tokenizer = self  # type: ignore[assignment]

    def encode(self, samples: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint16]]:
        """The grids [T, H, W] of frames [F, 8 * H, 8 * W, 3]."""
        time.sleep(0.05 * len(samples))
        return [self._grid(frames[:: min(4, len(frames))]) for frames in samples]

    @staticmethod
    def _grid(frames: NDArray[np.uint8]) -> NDArray[np.uint16]:
        num_frames, height, width, _ = frames.shape
        blocks = frames.reshape(num_frames, height // 8, 8, width // 8, 8, 3)
        return (100 * blocks.mean((2, 4, 5))).astype(np.uint16)
