"""The columns of a training shard, and the document that a row stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import ConfigError, TokenizeError
from curation.stage import Column
from curation.tokenize_shards.documents.document import build

_BEFORE: Mapping[str, Column] = {
    "sample_id": Column(pa.string(), "A hash of the source and the span."),
    "source_id": Column(pa.string(), "A hash of the source's URI and version."),
    "source_uri": Column(pa.string(), "Where the sample comes from."),
    "kind": Column(pa.string(), "`image` or `clip`."),
    "start_s": Column(pa.float64(), "Begin of the clip in its source, in seconds; null for an image."),
    "end_s": Column(pa.float64(), "Its end, likewise."),
    "split": Column(pa.string(), "`train` or `validation`; a source is in one of them alone."),
    "caption": Column(pa.string(), "The text."),
    "meta": Column(pa.string(), "The text between caption and vision tokens."),
    "codes": Column(pa.binary(), "Little-endian uint16, row-major [grid_t, grid_h, grid_w], each 0..32,767."),
    "grid_t": Column(pa.int32(), "Frames of the token grid: a quarter of those encoded; 1 for an image."),
    "grid_h": Column(pa.int32(), "Rows of the token grid: height in pixels / 8."),
    "grid_w": Column(pa.int32(), "Columns of the token grid: width in pixels / 8."),
    "fps": Column(pa.float32(), "Frames per second that were encoded; null for an image."),
    "task": Column(
        pa.string(), "`generation`: the caption stands before the codes; `understanding`: behind."
    ),
    "text_ids": Column(pa.list_(pa.int32()), "Ids of the caption; empty where the document leaves it out."),
    "meta_ids": Column(pa.list_(pa.int32()), "Ids of `meta`."),
    "num_tokens": Column(pa.int32(), "Ids of the whole document."),
}
_AFTER: Mapping[str, Column] = {
    "caption_model": Column(pa.string(), "Who wrote the caption."),
    "tokenizer": Column(pa.string(), "What made the codes: name and revision."),
    "license": Column(pa.string(), "As the source brought it; the dataset's where it brought none."),
    "alt_text": Column(pa.string(), "Text that the source brought."),
}
_NOT_MEASURED = Column(pa.float32(), "Not measured by this recipe.")
ALWAYS = ("aesthetic_score", "text_coverage", "flow_score")
"""Scores that readers of this layout count on: all null where no stage of the recipe exports them."""


def shard_columns(exported: Mapping[str, Column]) -> dict[str, Column]:
    """The columns of a shard, in order: those of its layout, and between them what stages export.

    Raises:
        ConfigError: a stage exports something under the name of a column of the layout.
    """
    taken = exported.keys() & (_BEFORE.keys() | _AFTER.keys())
    if taken:
        raise ConfigError(f"a stage exports {min(taken)}, which is a column of the shards themselves")
    scores = {name: exported.get(name, _NOT_MEASURED) for name in ALWAYS}
    return {**_BEFORE, **scores, **exported, **_AFTER}


def shard_schema(columns: Mapping[str, Column]) -> pa.Schema:
    """The Arrow schema of `shard_columns`."""
    return pa.schema([(name, column.type) for name, column in columns.items()])


SCHEMA = shard_schema(shard_columns({}))
"""The columns that every shard has; in between may stand others that stages export."""


def follows_layout(schema: pa.Schema) -> bool:
    """Whether a file has the columns of a shard, in order."""
    before, after = shard_schema(_BEFORE), shard_schema(_AFTER)
    fields = list(schema)
    scores = tuple(schema.names[len(before) : len(before) + len(ALWAYS)])
    return fields[: len(before)] == list(before) and fields[-len(after) :] == list(after) and scores == ALWAYS


PACK_SCHEMA = pa.schema(
    [
        ("sample_ids", pa.list_(pa.string())),
        ("input_ids", pa.list_(pa.int32())),
        ("lengths", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
    ]
)
"""A row of packed shards: documents one after the other without padding, and how long each is."""
REPEATED = ("kind", "split", "meta", "task", "caption_model", "tokenizer", "license")
"""Columns of few values, which Parquet keeps in a dictionary."""


def grid_of(row: Mapping[str, Any]) -> NDArray[np.uint16]:
    """The token grid [T, H, W] uint16 of a row.

    Raises:
        TokenizeError: the codes are fewer or more than the grid has cells.
    """
    shape = (row["grid_t"], row["grid_h"], row["grid_w"])
    if len(row["codes"]) != 2 * math.prod(shape):
        raise TokenizeError(f"{len(row['codes'])} bytes are no grid of {shape[0]} x {shape[1]} x {shape[2]}")
    codes = np.frombuffer(row["codes"], "<u2")
    return codes.reshape(shape).astype(np.uint16, copy=False)


def document_of(row: Mapping[str, Any]) -> NDArray[np.int32]:
    """The document of a row: [num_tokens] int32 ids below 184,622.

    Raises:
        TokenizeError: the row's codes are no grid of the codebook's.
    """
    return build(row["text_ids"], row["meta_ids"], grid_of(row), row["task"])
