"""Which new sources share a unit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from curation.config.config import RunSettings


def new_units(
    kind: str, num_bytes: NDArray[np.float64], settings: RunSettings
) -> Iterator[NDArray[np.int64]]:
    """The sources of each new unit, as places among the N of one kind; `num_bytes` [N] are their sizes.

    Scratch has room for all videos of a unit. Of larger ones fewer share a unit, a power of two, and only
    with others of which as many do: this follows from the settings and the size of each alone, so a run that
    goes on after another makes the units that are still missing.
    """
    most = settings.unit_videos if kind == "video" else settings.unit_images
    numbers = np.full(len(num_bytes), most)
    if kind == "video":
        fitting = np.maximum(1.0, settings.scratch_bytes / np.maximum(1.0, num_bytes))
        numbers = np.minimum(most, 2 ** np.floor(np.log2(fitting)).astype(np.int64))
    for number in np.unique(numbers)[::-1].tolist():
        places = np.flatnonzero(numbers == number)
        for start in range(0, len(places), number):
            yield places[start : start + number]
