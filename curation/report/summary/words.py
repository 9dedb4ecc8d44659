"""How numbers of things, sizes and differences of two records are said by a run's log and by the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_ABSENT = object()
MAX_SHOWN_CHARACTERS = 60


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, such as `text.min_box_px 10 -> 12`, in the order of `now`."""
    lines: list[str] = []
    for key in [*now, *(key for key in before if key not in now)]:
        was, has = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if isinstance(was, Mapping) and isinstance(has, Mapping):
            lines += changed_keys(was, has, f"{prefix}{key}.")
        elif was != has:
            lines.append(f"{prefix}{key} {shown(was)} -> {shown(has)}")
    return lines


def shown(value: Any) -> str:
    """A value as it is written in a configuration, cut where it is long."""
    if value is _ABSENT:
        return "unset"
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 3]}..."


def counted(number: int, what: str) -> str:
    """A number of things, such as `1 row` and `2 rows`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def data_size(num_bytes: float) -> str:
    """Bytes in a decimal unit and three digits: 999 bytes, 1.5 kB, 12.3 TB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{_three_digits(num_bytes / factor)} {unit}"
    return counted(round(num_bytes), "byte")


def _three_digits(value: float) -> str:
    """A number without an exponent, in three digits or, from 1000 on, whole."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"
