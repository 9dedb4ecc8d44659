"""The id sequence of one sample, as Emu3 trains on it, and its way back.

    generation:     [BOS] caption [SOV] meta [SOT] vision tokens [EOV] [EOS]
    understanding:  [BOS] [SOV] meta [SOT] vision tokens [EOV] caption [EOS]

Every row of vision tokens ends with EOL, every frame with EOF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import Formatter
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation.errors import TokenizeError
from curation.records import SampleKind, stable_id
from curation.stage import StageConfig, check_template
from curation.tokenize_shards.documents.text import (
    BOS,
    EOF,
    EOL,
    EOS,
    EOV,
    FIRST_VISUAL,
    NUM_RANKS,
    SOT,
    SOV,
    VOCABULARY_SIZE,
    TextTokenizer,
)
from curation.tokenize_shards.vision.tokenizer import TEMPORAL_FACTOR

Task = Literal["generation", "understanding"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Shape = tuple[int, int, int]
Size = TypeVar("Size", int, NDArray[np.int64])


class DocumentConfig(StageConfig):
    """Settings of documents."""

    understanding_fraction: Fraction = 0.0
    """Share of samples whose caption stands behind the vision tokens, to be learned from them; 0..1."""
    null_caption_fraction: Fraction = 0.0
    """Share of the others whose caption is left out, for classifier-free guidance; 0..1."""
    image_meta: str = "{rows}*{cols}"
    """Text between the caption and an image's tokens."""
    clip_meta: str = "{rows}*{cols}*{frames} {fps}fps {seconds}s"
    """The same for a clip: grid size, rate and seconds that were encoded; Emu3's is unpublished."""

    @model_validator(mode="after")
    def _templates_can_be_filled(self) -> DocumentConfig:
        check_template("image_meta", self.image_meta, rows=1, cols=1)
        check_template("clip_meta", self.clip_meta, rows=1, cols=1, frames=1, fps="1", seconds="1.0")
        return self

    def meta(self, kind: SampleKind, shape: Shape, fps: float | None) -> str:
        """The text that describes a token grid [T, H, W]; `fps` is None for an image."""
        frames, rows, cols = shape
        if kind == "image" or fps is None:
            return self.image_meta.format(rows=rows, cols=cols)
        seconds = f"{frames * TEMPORAL_FACTOR / fps:.1f}"
        return self.clip_meta.format(rows=rows, cols=cols, frames=frames, fps=f"{fps:g}", seconds=seconds)


@dataclass(frozen=True)
class Draw:
    """What a sample's document is for, and whether it has its caption."""

    task: Task
    has_caption: bool


@dataclass(frozen=True)
class Document:
    """A parsed document: ids of caption and meta, and the token grid [T, H, W] uint16."""

    caption_ids: list[int]
    meta_ids: list[int]
    grid: NDArray[np.uint16]


@dataclass(frozen=True)
class ReadDocument:
    """A document found to be sound: caption and meta as text, and the token grid [T, H, W] uint16."""

    caption: str
    meta: str
    grid: NDArray[np.uint16]


_PLAIN = Draw("generation", has_caption=True)


def draw(sample_id: str, seed: int, config: DocumentConfig) -> Draw:
    """What becomes of a sample: a pure function of its id, the seed and the two fractions.

    Raising a fraction changes further samples and leaves those that were drawn before as they are.
    """
    if not config.understanding_fraction and not config.null_caption_fraction:
        return _PLAIN
    if _happens(config.understanding_fraction, seed, "task", sample_id):
        return Draw("understanding", has_caption=True)
    has_caption = not _happens(config.null_caption_fraction, seed, "caption", sample_id)
    return Draw("generation", has_caption)


def _happens(fraction: float, seed: int, purpose: str, sample_id: str) -> bool:
    """Whether the sample is among a share of all."""
    return _chance(seed, purpose, sample_id) < fraction


def _chance(seed: int, purpose: str, sample_id: str) -> float:
    """Uniform in [0, 1)."""
    digits = stable_id(seed, purpose, sample_id)[:13]
    return float(int(digits, 16) / 16**13)


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


def document_length(num_text_ids: Size, num_meta_ids: Size, shape: tuple[Size, Size, Size]) -> Size:
    """How many ids `build` gives, of one document or of arrays of them; `shape` is that of the grid."""
    frames, rows, columns = shape
    markers = 5  # BOS, SOV, SOT, EOV, EOS
    return markers + num_text_ids + num_meta_ids + frames * (rows * (columns + 1) + 1)


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


def validate(ids: NDArray[np.int32], tokenizer: TextTokenizer, config: DocumentConfig) -> ReadDocument:
    """Read a document and make sure that it is what the settings build: its text, its meta, its grid.

    Raises:
        TokenizeError: it is malformed, its text is not as `tokenizer` would write it, or its meta tells
            of another grid.
    """
    document = parse(ids)
    caption, meta = (_text(part, tokenizer) for part in (document.caption_ids, document.meta_ids))
    frames, rows, cols = shape = document.grid.shape
    expected = {"rows": rows, "cols": cols, "frames": frames}
    if not any(_describes(template, meta, expected) for template in _templates(config, shape)):
        raise TokenizeError(f"the meta {meta!r} is not that of {frames} frames of {rows} x {cols} codes")
    return ReadDocument(caption, meta, document.grid)


def _templates(config: DocumentConfig, shape: Shape) -> list[str]:
    """Those that may stand in a document: only a clip has several frames."""
    return [config.clip_meta] if shape[0] > 1 else [config.image_meta, config.clip_meta]


def _text(ids: list[int], tokenizer: TextTokenizer) -> str:
    text = tokenizer.decode(ids)
    if tokenizer.encode(text) != ids:
        raise TokenizeError("there are text ids that no text has")
    return text


def _describes(template: str, meta: str, expected: dict[str, int]) -> bool:
    """Whether `meta` is the template filled with what is expected, its seconds fitting its rate."""
    pattern, seen = "", set[str]()
    for text, field, form, _ in Formatter().parse(template):
        pattern += re.escape(text)
        if field in expected:
            pattern += re.escape(format(expected[field], form or ""))
        elif field is not None:
            pattern += f" *(?P={field}) *" if field in seen else f" *(?P<{field}>{_NUMBER}) *"
            seen.add(field)
    found = re.fullmatch(pattern, meta)
    if found is None:
        return False
    said = {field: float(value) for field, value in found.groupdict().items()}
    if said.get("fps") == 0:
        return False
    if said.keys() == {"fps", "seconds"}:
        return abs(expected["frames"] * TEMPORAL_FACTOR / said["fps"] - said["seconds"]) < _ROUNDED_S
    return True


_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_ROUNDED_S = 0.051
"""Seconds are written to a tenth, and the rate that they come from to six digits."""


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
