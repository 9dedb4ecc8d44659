"""The columns of a training shard, and the document that a row stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import TokenizeError
from tokenize_shards.documents.document import build

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("source_id", pa.string()),
        ("source_uri", pa.string()),
        ("kind", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("split", pa.string()),
        ("caption", pa.string()),
        ("meta", pa.string()),
        ("codes", pa.binary()),
        ("grid_t", pa.int32()),
        ("grid_h", pa.int32()),
        ("grid_w", pa.int32()),
        ("fps", pa.float32()),
        ("task", pa.string()),
        ("text_ids", pa.list_(pa.int32())),
        ("meta_ids", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
        ("aesthetic_score", pa.float32()),
        ("text_coverage", pa.float32()),
        ("flow_score", pa.float32()),
        ("caption_model", pa.string()),
        ("tokenizer", pa.string()),
        ("license", pa.string()),
        ("alt_text", pa.string()),
    ]
)
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
