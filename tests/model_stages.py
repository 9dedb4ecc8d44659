"""Stages that like to have a GPU, and what goes wrong with them; chosen by `stages:` in a configuration."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from curation.errors import WorkerError
from curation.media.halvings import Halvings
from curation.records import Sample
from curation.stage import Media, Resources, Setup
from curation.stages.color import ColorStage


class ModelColor(ColorStage):
    """Likes to have a GPU. A model worker gets the pixels without what makes them smaller."""

    name = "model_color"

    def resources(self) -> Resources:
        return Resources(gpu=True)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        again = [replace(item, halvings=[Halvings(frame) for frame in item.pixels]) for item in media]
        return super().measure(samples, again)


class CrampedColor(ModelColor):
    """Has room for two samples at a time, as a GPU's memory might."""

    name = "cramped_color"
    room: ClassVar[int] = 2
    sizes: ClassVar[list[int]] = []

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        import torch

        self.sizes.append(len(samples))
        if len(samples) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().measure(samples, media)


class TooLargeColor(CrampedColor):
    """Has room for none."""

    name = "too_large_color"
    room = 0


class DeadlyModelColor(ModelColor):
    """Dies with its process on one file, as soon as it begins."""

    name = "deadly_model_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if any("photo1" in item.source.uri for item in media):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(samples, media)


class LostContextColor(ModelColor):
    """A kernel goes wrong over one file, after which CUDA refuses everything in that process."""

    name = "lost_context_color"
    is_lost = False

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        import torch

        self.is_lost |= any("photo1" in item.source.uri for item in media)
        if self.is_lost:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return super().measure(samples, media)


class HangingModelColor(ModelColor):
    """Never comes back from one file."""

    name = "hanging_model_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if any("photo1" in item.source.uri for item in media):
            time.sleep(3600)
        return super().measure(samples, media)


class BrokenModelColor(ModelColor):
    """Its weights can't be read."""

    name = "broken_model_color"

    def setup(self, setup: Setup) -> None:
        raise FileNotFoundError("weights are missing")


class DeadlyLoadingColor(ModelColor):
    """Loading it kills the process, as where memory runs out."""

    name = "deadly_loading_color"

    def setup(self, setup: Setup) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class PidColor(ModelColor):
    """Says which process measures."""

    name = "pid_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        return [row | {"mean_luma": float(os.getpid())} for row in super().measure(samples, media)]


class GivesUpColor(ModelColor):
    """Its model is broken for good by one file, while its process lives on."""

    name = "gives_up_color"
    is_broken: ClassVar[bool] = False

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if self.is_broken or any("photo1" in item.source.uri for item in media):
            type(self).is_broken = True
            raise WorkerError("the engine died")
        return super().measure(samples, media)


class TogetherColor(ModelColor):
    """Measures nothing before three calls are there at once."""

    name = "together_color"

    def resources(self) -> Resources:
        return Resources(gpu=True, concurrency=3)

    def setup(self, setup: Setup) -> None:
        super().setup(setup)
        self._all = threading.Barrier(3)

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        self._all.wait(60)
        time.sleep(0.5)
        return super().measure(samples, media)


class SlowlyLoadedColor(ModelColor):
    """Writes down when it has been loaded, which takes a while."""

    name = "slowly_loaded_color"
    group: ClassVar[str] = "slow"
    load_s: ClassVar[float] = 2.0

    def resources(self) -> Resources:
        return Resources(gpu=True, group=self.group)

    def setup(self, setup: Setup) -> None:
        super().setup(setup)
        with Path(setup.services["written_to"]).open("a") as file:
            file.write(f"{self.group} begins\n")
            file.flush()
            time.sleep(self.load_s)
            file.write(f"{self.group} ends\n")


class QuicklyLoadedColor(SlowlyLoadedColor):
    """The same at once, in another group."""

    name = "quickly_loaded_color"
    group = "quick"
    load_s = 0.0


class UnsendableColor(ModelColor):
    """Holds what stays in its process."""

    name = "unsendable_color"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._lock = threading.Lock()
