"""Samples for shards, with codes that follow from their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from curation.ledger.selection import Kept

FOLDER = "shards/demo"


def kept_sample(number: int, **changed: Any) -> Kept:
    """Even numbers are images of 2 x 3 codes, odd ones clips of 2 x 4 x 5."""
    is_clip = number % 2 == 1
    columns = {
        "source_id": f"source-{number}",
        "source_uri": f"bucket/{number}.mp4",
        "kind": "clip" if is_clip else "image",
        "start_s": 1.5 if is_clip else None,
        "end_s": 14.0 if is_clip else None,
        "caption": f"the caption of {number}, <|image end|> and all",
        "caption_model": "captioner",
        "grid_t": 2 if is_clip else 1,
        "grid_h": 4 if is_clip else 2,
        "grid_w": 5 if is_clip else 3,
        "fps": 4.0 if is_clip else None,
        "aesthetic_score": 5.5,
        "text_coverage": None,
        "flow_score": 0.25 if is_clip else None,
        "tokenizer": "tokenizer@1",
        "license": "CC0",
        "alt_text": None,
    }
    return Kept(f"sample-{number}", {**columns, **changed}, ("captions-1", "tokens-1"))


def grid_of(item: Kept) -> Any:
    shape = [item.columns[name] for name in ("grid_t", "grid_h", "grid_w")]
    seed = int(item.sample_id.removeprefix("sample-"))
    return np.random.default_rng(seed).integers(0, 32_768, shape).astype("<u2")


class FakeLedger:
    """Samples in units of `per_unit`; remembers of which units the codes were asked for."""

    def __init__(self, kept: Iterable[Kept], per_unit: int = 100) -> None:
        kept = list(kept)
        self._units = [kept[start : start + per_unit] for start in range(0, len(kept), per_unit)]
        self.asked: list[int] = []

    def units(self) -> range:
        return range(len(self._units))

    def kept(self, unit: int) -> list[Kept]:
        return self._units[unit]

    def codes(self, unit: int) -> dict[str, bytes]:
        self.asked.append(unit)
        return {item.sample_id: grid_of(item).tobytes() for item in self._units[unit]}
