"""What sources carry, as columns of a table: first all of it is noted, then any part of it is converted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from curation.ingest.metadata import texts_of
from curation.records import MetadataValue

PREFIX = "carried_"
"""Stands before names that are taken."""
_TEXTS = pa.list_(pa.string())
_TYPES = {
    frozenset({"bool"}): pa.bool_(),
    frozenset({"int"}): pa.int64(),
    frozenset({"float"}): pa.float64(),
    frozenset({"int", "float"}): pa.float64(),
    frozenset({"long", "float"}): pa.float64(),
    frozenset({"int", "long", "float"}): pa.float64(),
}
"""Kinds of the values of one name -> the type that holds them all; of others, that is text."""


class MetadataColumns:
    """The columns for what sources carry, each of the type that holds all its values.

    Numbers of several types become float64, other mixtures and integers beyond 64 bits text. Where a value
    is a list of texts, all are lists.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = frozenset(taken)
        self._kinds: dict[str, set[str]] = {}

    def note(self, carried: pa.ChunkedArray) -> None:
        """See which names and values there are in a column of JSON objects, as the ledger has it."""
        for text in carried.unique().drop_null().to_pylist():
            for name, value in json.loads(text).items():
                self._kinds.setdefault(name, set()).add(_kind(value))

    def fields(self) -> list[pa.Field]:
        """The columns for all that was noted, sorted by name."""
        names = self._names()
        fields = [pa.field(names[name], _type(kinds)) for name, kinds in self._kinds.items()]
        return sorted(fields, key=lambda field: field.name)

    def columns(self, carried: pa.ChunkedArray) -> dict[str, pa.Array]:
        """These columns of some of the sources, absent where none of them carries anything."""
        if carried.null_count == len(carried):
            return {}
        names = self._names()
        rows = [
            {names[name]: value for name, value in json.loads(text or "{}").items()}
            for text in carried.to_pylist()
        ]
        return {
            field.name: pa.array(
                map(_converter(field.type), (row.get(field.name) for row in rows)), field.type
            )
            for field in self.fields()
        }

    def _names(self) -> dict[str, str]:
        """Each name -> its column: the name itself unless that is taken."""
        found = {name: name for name in self._kinds if name not in self._taken}
        for name in sorted(self._kinds.keys() - found.keys()):
            column = name
            while column in self._taken or column in found.values():
                column = f"{PREFIX}{column}"
            found[name] = column
        return found


def _kind(value: MetadataValue) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        return type(value).__name__
    if abs(value) > sys.float_info.max:
        return "text"
    return "int" if -(2**63) <= value < 2**63 else "long"


def _type(kinds: set[str]) -> pa.DataType:
    return _TEXTS if "list" in kinds else _TYPES.get(frozenset(kinds), pa.string())


def _converter(kind: pa.DataType) -> Callable[[Any], Any]:
    if kind == _TEXTS:
        return lambda value: None if value is None else texts_of(value)
    convert = str if kind == pa.string() else float if kind == pa.float64() else None
    return lambda value: value if convert is None or value is None else convert(value)
