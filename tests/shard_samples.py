"""Samples for shards, with codes that follow from their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.stage import Column

FOLDER = "shards/demo"
SCORES = {
    name: Column(pa.float32(), f"The {name}.", exported=True)
    for name in ("aesthetic_score", "text_coverage", "flow_score")
}
TYPES = {
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    **dict.fromkeys(("grid_t", "grid_h", "grid_w"), pa.int32()),
    "fps": pa.float32(),
}


@dataclass(frozen=True)
class Kept:
    """A sample for a shard: its columns, but for codes, and what it was measured by."""

    sample_id: str
    columns: dict[str, Any]
    measured_by: str = "captions-1 tokens-1"


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
    return Kept(f"sample-{number}", {**columns, **changed})


def grid_of(item: Kept) -> Any:
    shape = [item.columns[name] for name in ("grid_t", "grid_h", "grid_w")]
    seed = int(item.sample_id.removeprefix("sample-"))
    return np.random.default_rng(seed).integers(0, 32_768, shape).astype("<u2")


class FakeLedger:
    """Samples in units of `per_unit`; remembers of which units the codes were asked for."""

    def __init__(
        self, kept: Iterable[Kept], per_unit: int = 100, exported: dict[str, Column] | None = None
    ) -> None:
        kept = list(kept)
        self._units = [kept[start : start + per_unit] for start in range(0, len(kept), per_unit)]
        self.exported = SCORES | (exported or {})
        self.made_by = tuple(sorted({item.measured_by for item in kept}))
        self.asked: list[int] = []

    def units(self) -> range:
        return range(len(self._units))

    def kept(self, units: Iterable[int]) -> Iterator[pa.Table]:
        for unit in units:
            rows = self._units[unit]
            columns = {"unit": pa.array([unit] * len(rows), pa.int64())}
            columns["sample_id"] = pa.array([item.sample_id for item in rows], pa.string())
            for name in (kept_sample(0).columns.keys() - SCORES) | self.exported.keys():
                kind = self.exported[name].type if name in self.exported else TYPES.get(name, pa.string())
                columns[name] = pa.array([item.columns[name] for item in rows], kind)
            yield pa.table(columns)

    def licenses(self, table: pa.Table) -> pa.ChunkedArray:
        return table["license"]

    def described(self, table: pa.Table) -> pa.Table:
        return table

    def codes_of(self, item: Kept) -> bytes:
        found: bytes = grid_of(item).tobytes()
        return found

    def codes(self, units: Iterable[int]) -> Iterator[pa.Table]:
        for unit in units:
            self.asked.append(unit)
            rows = self._units[unit]
            codes = [self.codes_of(item) for item in rows]
            yield pa.table(
                {
                    "sample_id": pa.array([item.sample_id for item in rows], pa.string()),
                    "codes": pa.array(codes, pa.binary()),
                }
            )
