"""The id sequence of one sample, as Emu3 trains on it, and its way back.

    generation:     [BOS] caption [SOV] meta [SOT] vision tokens [EOV] [EOS]
    understanding:  [BOS] [SOV] meta [SOT] vision tokens [EOV] caption [EOS]

Every row of vision tokens ends with EOL, every frame with EOF.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curation.errors import TokenizeError
from tokenize_shards.text import BOS, EOF, EOL, EOS, EOV, FIRST_VISUAL, NUM_RANKS, SOT, SOV, VOCABULARY_SIZE

Task = Literal["generation", "understanding"]


@dataclass(frozen=True)
class Document:
    """A parsed document: ids of caption and meta, and the token grid [T, H, W] uint16."""

    caption_ids: list[int]
    meta_ids: list[int]
    grid: NDArray[np.uint16]


def vision_ids(grid: NDArray[np.uint16]) -> NDArray[np.int32]:
    """[T * (H * (W + 1) + 1)] ids of a [T, H, W] grid, rows ended by EOL and frames by EOF."""
    frames, rows, columns = grid.shape
    ids = np.full((frames, rows * (columns + 1) + 1), EOF, np.int32)
    body = ids[:, :-1].reshape(frames, rows, columns + 1)
    body[..., :-1] = grid.astype(np.int32) + FIRST_VISUAL
    body[..., -1] = EOL
    ids[:, :-1] = body.reshape(frames, -1)
    return ids.reshape(-1)


def build(
    caption_ids: list[int], meta_ids: list[int], grid: NDArray[np.uint16], task: Task = "generation"
) -> NDArray[np.int32]:
    """The document of a captioned token grid, as int32 ids below 184,622.

    Raises:
        TokenizeError: a code is none of the codebook's.
    """
    if grid.size and grid.max() >= VOCABULARY_SIZE - FIRST_VISUAL:
        raise TokenizeError(f"code {grid.max()} is beyond the codebook")
    vision = [[SOV], meta_ids, [SOT], vision_ids(grid), [EOV]]
    parts = [caption_ids, *vision] if task == "generation" else [*vision, caption_ids]
    return np.concatenate([np.asarray(part, np.int32) for part in ([BOS], *parts, [EOS])])


def parse(ids: NDArray[np.int32]) -> Document:
    """Take a document apart.

    Raises:
        TokenizeError: the ids are not one whole document.
    """
    if len(ids) < 2 or ids[0] != BOS or ids[-1] != EOS:
        raise TokenizeError("a document begins with BOS and ends with EOS")
    sov, sot, eov = (_only(ids, marker, name) for marker, name in ((SOV, "SOV"), (SOT, "SOT"), (EOV, "EOV")))
    if not sov < sot < eov:
        raise TokenizeError("SOV, SOT and EOV are not in this order")
    before, after, meta = ids[1:sov], ids[eov + 1 : -1], ids[sov + 1 : sot]
    if len(before) and len(after):
        raise TokenizeError("there is text on both sides of the vision tokens")
    if any(((part < 0) | (part >= NUM_RANKS)).any() for part in (before, after, meta)):
        raise TokenizeError("there is something else than text where text belongs")
    return Document([*before.tolist(), *after.tolist()], meta.tolist(), _grid(ids[sot + 1 : eov]))


def _only(ids: NDArray[np.int32], marker: int, name: str) -> int:
    places = np.flatnonzero(ids == marker)
    if len(places) != 1:
        raise TokenizeError(f"a document holds {name} once, not {len(places)} times")
    return int(places[0])


def _grid(ids: NDArray[np.int32]) -> NDArray[np.uint16]:
    frames = int(np.count_nonzero(ids == EOF))
    rows, odd_rows = divmod(int(np.count_nonzero(ids == EOL)), max(frames, 1))
    cells = len(ids) - frames - frames * rows
    if not frames or not rows or odd_rows or not cells or cells % (frames * rows):
        raise TokenizeError("the vision tokens are no grid")
    columns = cells // (frames * rows)
    body = ids.reshape(frames, -1)
    codes = body[:, :-1].reshape(frames, rows, columns + 1)[..., :-1] - FIRST_VISUAL
    if not ((codes >= 0) & (codes < VOCABULARY_SIZE - FIRST_VISUAL)).all():
        raise TokenizeError("there is something else among the vision tokens")
    if (body[:, -1] != EOF).any() or (body[:, columns :: columns + 1][:, :rows] != EOL).any():
        raise TokenizeError("rows or frames end in the wrong place")
    return codes.astype(np.uint16)
