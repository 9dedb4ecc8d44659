"""Stages that like to have a GPU, and what goes wrong with them; chosen by `stages:` in a configuration."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from curation.media.halvings import Halvings
from curation.records import Sample
from curation.stage import Media, Resources, Setup
from stages.color import ColorStage


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
    """Dies with its process on one file, a moment after it began."""

    name = "deadly_model_color"

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        if any("photo1" in item.source.uri for item in media):
            time.sleep(0.5)
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
