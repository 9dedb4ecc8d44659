"""Cuts long clips into windows that are captioned on their own."""

from __future__ import annotations

import math
from itertools import pairwise

from curation.records import Sample


def windows(clip: Sample, split_from_s: float, max_window_s: float) -> list[Sample]:
    """The clip itself if it is shorter than `split_from_s`; else the fewest equal windows that fit.

    Emu3: clips of 20 s and more are cut into windows of 10-20 s. Equal parts of at most 20 s are never
    shorter than 10 s, since a clip of 20 s or more that needs n of them is longer than (n - 1) * 20 s.
    """
    if clip.kind != "clip" or clip.duration_s < split_from_s:
        return [clip]
    number = max(2, math.ceil(clip.duration_s / max_window_s))
    edges = [clip.start_s + clip.duration_s * part / number for part in range(number)] + [clip.end_s]
    return [
        Sample.of_span(clip.source_id, start_s, end_s, parent_id=clip.sample_id)
        for start_s, end_s in pairwise(edges)
    ]
