"""The population of a dataset-wide step, and what the step reads of it.

This process holds ids and small columns. Large ones, such as embeddings, are read where they are worked on,
a few units at a time: a part says only which samples of which units it is about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.dataset_stage import PopulationPart, Spread
from curation.ledger import Ledger
from curation.pipeline.rules import Step
from curation.storage import open_storage

PART_ROWS = 65_536
"""Samples whose large columns a task reads at once, at least, if there are so many: 100 MB of embeddings."""


@dataclass(frozen=True)
class Population:
    """The samples that a step measures together.

    Attributes:
        members: `GIVEN_COLUMNS` and `unit`, a row per sample, sorted by `sample_id`.
        num_waiting: Samples, and sources without any yet, that an earlier step still has to measure.
        metadata: Digest of the metadata of their sources; empty where no step reads any.
    """

    members: pa.Table
    num_waiting: int
    metadata: str = ""

    def digest(self) -> str:
        """SHA-256 of the sorted sample ids."""
        total = hashlib.sha256()
        for batch in self.members.select(["sample_id"]).to_batches(max_chunksize=PART_ROWS):
            total.update("\n".join([*batch["sample_id"].to_pylist(), ""]).encode())
        return total.hexdigest()

    def by_unit(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each unit with the places of its members in the table."""
        units = self.members["unit"].to_numpy()
        order = np.argsort(units, kind="stable")
        starts = np.flatnonzero(np.diff(units[order], prepend=-1))
        for places in np.split(order, starts[1:]) if len(order) else []:
            yield int(units[places[0]]), places


@dataclass(frozen=True)
class _Provided:
    """Columns that a step measured, as a task can read them."""

    stage: str
    fingerprint: str
    types: Mapping[str, pa.DataType]


@dataclass(frozen=True)
class UnitsPart:
    """The members of a few units, whose large columns are read from the ledger."""

    root: str
    provided: tuple[_Provided, ...]
    units: tuple[int, ...]
    ids: pa.Array
    places: NDArray[np.int64]

    def read(self, columns: Sequence[str]) -> pa.Table:
        """These columns of the part's samples; null where a sample has none."""
        ledger, found = Ledger(open_storage(self.root)), {}
        for provided in self.provided:
            wanted = [name for name in columns if name in provided.types]
            if wanted:
                found.update(_read(ledger, provided, wanted, self.units, self.ids))
        return pa.table({name: found[name] for name in columns})


def _read(
    ledger: Ledger, provided: _Provided, columns: Sequence[str], units: Iterable[int], ids: pa.Array
) -> dict[str, pa.ChunkedArray]:
    """Columns of the samples `ids`, null where a sample failed or has no row."""
    wanted = ["sample_id", "status", *columns]
    schema = pa.schema(
        [("sample_id", pa.string()), *((name, _wide(provided.types[name])) for name in columns)]
    )
    parts = [schema.empty_table()]
    for _, rows in ledger.snapshot(provided.stage, provided.fingerprint).scan(units, wanted):
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        parts.append(pa.table([rows[name].cast(schema.field(name).type) for name in schema.names], schema))
    table = pa.concat_tables(parts)
    places = pc.index_in(ids, value_set=table["sample_id"].combine_chunks())
    return {name: table[name].take(places) for name in columns}


def _wide(kind: pa.DataType) -> pa.DataType:
    """Offsets of 64 bits, since the embeddings of a million samples are more than 2 GB."""
    return pa.large_binary() if pa.types.is_binary(kind) else kind


class Inputs:
    """What a step reads of its population."""

    def __init__(
        self, ledger: Ledger, providers: Sequence[tuple[Step, list[str]]], population: Population
    ) -> None:
        self._ledger, self._population = ledger, population
        self._small = [_provided(step, columns, large=False) for step, columns in providers]
        self._large = tuple(_provided(step, columns, large=True) for step, columns in providers)

    def lacking(self, required: Sequence[str], spread: Spread) -> pa.Array:
        """For each member, why it can't be measured; null if nothing is lacking."""
        members = self.small()
        reason = pa.nulls(members.num_rows, pa.string())
        for name in required:
            if name in members.column_names:
                reason = _because(reason, name, pc.is_null(members[name]).combine_chunks())
        large = [name for name in required if name in self.large_columns]
        parts = self.parts(np.arange(members.num_rows)) if large else []
        is_null = np.zeros((len(large), members.num_rows), np.bool_)
        found = spread(partial(_nulls, large), parts)
        for part, nulls in zip(parts, found, strict=True):
            is_null[:, part.places] = nulls
        for name, nulls in zip(large, is_null, strict=True):
            reason = _because(reason, name, pa.array(nulls))
        return reason

    @property
    def large_columns(self) -> list[str]:
        """The columns that only parts have."""
        return [name for provided in self._large for name in provided.types]

    def small(self) -> pa.Table:
        """The members with all columns that are not large."""
        members = self._population.members
        units = np.unique(members["unit"].to_numpy()).tolist()
        table = members.drop_columns(["unit"])
        for provided in self._small:
            if provided.types:
                ids = members["sample_id"].combine_chunks()
                found = _read(self._ledger, provided, list(provided.types), units, ids)
                for name, column in found.items():
                    table = table.append_column(name, column)
        return table

    def parts(self, chosen: NDArray[np.int64]) -> list[UnitsPart]:
        """The members at the places `chosen`, a few units at a time; their places are those in `chosen`."""
        place_of = np.full(self._population.members.num_rows, -1)
        place_of[chosen] = np.arange(len(chosen))
        parts: list[UnitsPart] = []
        units: list[int] = []
        held: list[NDArray[np.int64]] = []
        for unit, own in self._population.by_unit():
            units.append(unit)
            held.append(own[place_of[own] >= 0])
            if sum(map(len, held)) >= PART_ROWS:
                parts.append(self._part(units, np.concatenate(held), place_of))
                units, held = [], []
        if any(map(len, held)):
            parts.append(self._part(units, np.concatenate(held), place_of))
        return parts

    def _part(self, units: list[int], own: NDArray[np.int64], place_of: NDArray[np.int64]) -> UnitsPart:
        ids = self._population.members["sample_id"].take(pa.array(own)).combine_chunks()
        return UnitsPart(self._ledger.storage.root, self._large, tuple(units), ids, place_of[own])


def _provided(step: Step, columns: Sequence[str], *, large: bool) -> _Provided:
    declared = step.stage.columns
    types = {name: declared[name].type for name in columns if declared[name].large == large}
    return _Provided(step.name, step.fingerprint, types)


def _because(reason: pa.Array, column: str, is_null: pa.Array) -> pa.Array:
    return pc.if_else(is_null, pa.scalar(f"there is no {column} of it"), reason)


def _nulls(columns: Sequence[str], part: PopulationPart) -> NDArray[np.bool_]:
    """Bool [len(columns), N], whether each of the part's N samples lacks a column."""
    table = part.read(columns)
    return np.array([pc.is_null(table[name]).to_numpy() for name in columns])
