"""What comes with a source: the text and JSON beside it, the other columns of its row."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from collections.abc import Mapping
from typing import Any

from curation.records import Carried

MAX_SIDECAR_BYTES = 1 << 20
"""A larger .txt or .json file is not about one picture, and is left alone."""
SIDECAR_SUFFIXES = (".json", ".txt")
"""In the order in which they are read: where both name a caption, that of .txt counts."""
CAPTION = "caption"
PROBLEM = "carried_error"
"""Under this name stands why a sidecar could not be read."""


def scalars(values: Mapping[str, Any]) -> dict[str, Carried]:
    """The values that fit a column: nothing that is null, nested, bytes or infinite; dates as text."""
    kept: dict[str, Carried] = {}
    for name, value in values.items():
        if isinstance(value, dt.date | dt.time | decimal.Decimal):
            kept[name] = str(value)
        elif isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
            kept[name] = value
    return kept


def from_sidecar(suffix: str, data: bytes) -> dict[str, Carried]:
    """What a .txt or .json file says."""
    if suffix == ".txt":
        return {CAPTION: data.decode("utf-8-sig", errors="replace").strip()}
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        return {PROBLEM: f"the .json file beside it can't be read: {error}"}
    return scalars(values) if isinstance(values, dict) else {PROBLEM: "the .json file beside it is no object"}
