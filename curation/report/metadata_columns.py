"""What sources carry, as columns of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from curation.ingest.metadata import texts_of
from curation.records import MetadataValue, Source

PREFIX = "carried_"
"""Stands before names that are taken."""


class MetadataColumns:
    """Collects what the source of each row carries; a column is of the type that holds all its values."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = frozenset(taken)
        self._rows: list[dict[str, MetadataValue]] = []

    def add(self, source: Source, num_rows: int) -> None:
        """The next rows are about this source."""
        own = {self._column(name): value for name, value in source.metadata.items()}
        self._rows += [own] * num_rows

    def _column(self, name: str) -> str:
        while name in self._taken:
            name = f"{PREFIX}{name}"
        return name

    def append_to(self, table: pa.Table) -> pa.Table:
        """`table` and these columns, sorted by name."""
        for name in sorted({name for row in self._rows for name in row}):
            table = table.append_column(name, _array([row.get(name) for row in self._rows]))
        return table


def _array(values: Sequence[Any]) -> pa.Array:
    """Numbers of several types become float64, other mixtures and integers beyond 64 bits text.

    Where a value is a list of texts, all are lists.
    """
    if any(isinstance(value, list) for value in values):
        return pa.array(
            [None if value is None else texts_of(value) for value in values], pa.list_(pa.string())
        )
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if len(types) == 1:
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, OverflowError):
            pass
    return pa.array([None if value is None else str(value) for value in values], pa.string())
