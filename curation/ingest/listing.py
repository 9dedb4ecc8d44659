"""Lists the inputs: a row for every source, by column; what no reader takes is counted.

Names decide which sidecars are a file's, what containers hold is read from their index, and which files
lists name is a join. Nothing else is opened: what sidecars say is read by whoever works on the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.config import Config
from curation.errors import ConfigError
from curation.ingest.containers.index import ListingIndex
from curation.ingest.containers.named import failed_metadata, find_files, why_absent
from curation.ingest.containers.reader import ENTRIES, Inventory
from curation.ingest.inputs import FoundFolder, find_inputs
from curation.ingest.leftovers import NO_SUFFIX, Leftovers
from curation.ingest.listed import LISTED, ListedSources
from curation.ingest.locator import printable
from curation.ingest.metadata import metadata_json
from curation.ingest.sidecars import Sidecars
from curation.ingest.tombstones import Tombstones, read_tombstones
from curation.records import Source
from curation.storage import open_storage

_PLACE = pa.schema([("place", pa.string()), ("position", pa.int64())])
"""By what a listing is sorted: the file, and the position in it; -1 for a file itself."""
_ROWS = pa.schema([*LISTED, *_PLACE])
_COMMA = pa.scalar(",", pa.large_string())


@dataclass(frozen=True)
class Listing:
    """The media below the inputs in order of place, and what else lies there."""

    sources: ListedSources
    leftovers: Leftovers = field(default_factory=Leftovers)

    @property
    def num_ignored(self) -> int:
        """Files, and parts of files, that are neither media nor say anything about media."""
        return self.leftovers.kinds.total()


def list_inputs(
    config: Config, found: Sequence[FoundFolder] | None = None, index: ListingIndex | None = None
) -> Listing:
    """List the configured inputs; `found` saves looking for their files again.

    A run has its workers list what `unlisted_containers` names before; what the index, by default that of
    the output, still does not know is listed here, unless it may not be.

    A container that can't be listed to its end is a source itself, of kind `container` and failed, beside
    the sources that were found in it.

    Raises:
        ConfigError: an input is missing, holds no media, or is the output of a run.
        StorageError: a folder can't be read.
    """
    leftovers = Leftovers()
    found = found or find_inputs(config)
    output = open_storage(config.general.output)
    index, tombstones = index or ListingIndex(output), read_tombstones(output)
    tables = []
    for root, folder in zip(config.general.input, found, strict=True):
        listed = _FolderListing(folder, index, leftovers, tombstones)
        rows = listed.rows()
        if not (rows.num_rows or listed.num_retracted or folder.survey.repeated or index.unlisted):
            raise ConfigError(f"input {root}: {folder.nothing_found()}")
        tables.append(rows)
    rows = _joined(tables)
    if not _are_files_in_order(rows["place"]):
        rows = _sorted(_once(rows))
    return Listing(ListedSources(rows.select(LISTED.names)), leftovers)


class _FolderListing:
    """Lists one input."""

    def __init__(
        self, folder: FoundFolder, index: ListingIndex, leftovers: Leftovers, tombstones: Tombstones
    ) -> None:
        self._folder = folder
        self._leftovers = leftovers
        self._tombstones = tombstones
        self.num_retracted = 0
        self._files = folder.files
        self._names = folder.files["name"].combine_chunks()
        self._keys: list[str] = []
        self._containers: list[Source] = []
        self._problems: list[Mapping[str, Any]] = []
        self._entries = self._read_containers(index)
        self._sidecars = Sidecars(
            self._names, *(folder.files[name].combine_chunks() for name in ("suffix", "etag", "size_bytes"))
        )

    def rows(self) -> pa.Table:
        """A row per source (`_ROWS`), in the order in which they are met."""
        is_named = self._entries["path"].is_valid()
        named = self._entries.filter(is_named)
        targets = find_files(
            self._folder.root,
            self._names,
            [printable(key) for key in self._keys],
            named["container"].combine_chunks(),
            named["path"].combine_chunks(),
        )
        rows = [
            self._file_rows(targets, named),
            self._part_rows(self._entries.filter(pc.invert(is_named))),
            self._absent_rows(named.filter(targets.is_null())),
            pa.Table.from_pylist(self._problems, schema=_ROWS),
        ]
        self._leftovers.add_survey(self._folder)
        self._count_unread(targets)
        return self._without_retracted(_joined(rows))

    def _without_retracted(self, rows: pa.Table) -> pa.Table:
        if not len(self._tombstones):
            return rows
        is_retracted = self._tombstones.cover(rows["uri"])
        self.num_retracted += int(is_retracted.sum())
        self._leftovers.num_retracted += self.num_retracted
        return rows.filter(pa.array(~is_retracted))

    def _read_containers(self, index: ListingIndex) -> pa.Table:
        """What all containers hold, with the number of the container."""
        schema = pa.schema([*ENTRIES, ("container", pa.int32())])
        tables = [schema.empty_table()]
        for key, container in self._folder.containers():
            if self._tombstones.covers(container.uri):
                self.num_retracted += 1
                continue
            number = len(self._keys)
            inventory = index.inventory(container)
            entries = inventory.entries
            numbers = pa.array(np.full(entries.num_rows, number, np.int32))
            tables.append(entries.append_column("container", numbers).cast(schema))
            self._keys.append(key)
            self._containers.append(container)
            self._leftovers.add_inventory(key, inventory)
            self._problems += _problem(container, inventory)
        return pa.concat_tables(tables)

    def _file_rows(self, targets: pa.Array, named: pa.Table) -> pa.Table:
        """The plain files: media by their names, and whatever else a list names."""
        mentions = _Mentions(self._files.num_rows, targets, named)
        kinds = self._files["kind"].combine_chunks()
        is_source = np.array(kinds.is_valid())
        is_source[mentions.files] = True
        rows = pa.array(np.flatnonzero(is_source))
        files = self._files.select(("name", "size_bytes", "etag")).take(rows)
        beside = self._sidecars.etags(files["name"].combine_chunks())
        carried, carried_etag = mentions.metadata(rows, beside)
        uri = pc.binary_join_element_wise(f"{printable(self._folder.root)}/", files["name"], "")
        return _table(
            uri=uri,
            kind=pc.coalesce(kinds.take(rows), mentions.kinds(rows).combine_chunks()),
            size_bytes=files["size_bytes"],
            etag=files["etag"],
            carried=carried,
            carried_etag=carried_etag,
            place=uri,
            position=np.full(len(rows), -1),
        )

    def _part_rows(self, entries: pa.Table) -> pa.Table:
        """What lies in containers."""
        uris = pa.array([container.uri for container in self._containers], pa.string())
        etags = pa.array([container.etag for container in self._containers], pa.string())
        place = uris.take(entries["container"])
        position = entries["position"].cast(pa.string())
        return _table(
            uri=pc.binary_join_element_wise(place, entries["part"], "#"),
            kind=entries["kind"],
            size_bytes=entries["size_bytes"],
            etag=pc.binary_join_element_wise(etags.take(entries["container"]), position, "@"),
            carried=entries["carried"],
            place=place,
            position=entries["position"],
        )

    def _absent_rows(self, entries: pa.Table) -> pa.Table:
        """Rows of containers whose files are not there: failed sources, each with what its row says."""
        metadata = [
            failed_metadata(path, carried)
            for path, carried in zip(
                *(entries[name].to_pylist() for name in ("path", "carried")), strict=True
            )
        ]
        rows = self._part_rows(entries)
        failed: dict[str, Sequence[str | None]] = {
            "carried": [metadata_json(values) for values in metadata],
            "error_type": ["ProbeError"] * len(metadata),
            "error": [why_absent(values) for values in metadata],
        }
        return _table(**{name: failed.get(name, rows[name]) for name in _ROWS.names})

    def _count_unread(self, targets: pa.Array) -> None:
        """Count the files that are neither media nor say anything about media."""
        is_media = self._files["kind"].is_valid()
        is_unread = ~np.asarray(pc.or_(is_media, self._files["is_container"]))
        is_unread[self._sidecars.rows_beside(self._names.filter(is_media.combine_chunks()))] = False
        is_unread[targets.drop_null()] = False
        unread = self._files["suffix"].filter(pa.array(is_unread))
        self._leftovers.kinds.update(
            {count["values"] or NO_SUFFIX: count["counts"] for count in unread.value_counts().to_pylist()}
        )


class _Mentions:
    """What lists say of files: several times of one file, perhaps."""

    def __init__(self, num_files: int, targets: pa.Array, entries: pa.Table) -> None:
        """`targets` are the rows of the files that `entries` name, null where there is none."""
        there = targets.is_valid()
        order = np.argsort(targets.drop_null(), kind="stable")
        entries = entries.filter(there).take(pa.array(order))
        self.files, starts, counts = np.unique(
            np.asarray(targets.drop_null())[order], return_index=True, return_counts=True
        )
        self._kinds = entries["kind"].take(pa.array(starts + counts - 1))
        said = entries["carried"].cast(pa.large_string()).combine_chunks()
        self._first = said.take(pa.array(starts))
        offsets = pa.array(np.append(starts, len(said)), pa.int32())
        self._all = pa.ListArray.from_arrays(offsets, said.fill_null("{}"))
        self._counts = counts
        self._place_of = np.full(num_files, -1)
        self._place_of[self.files] = np.arange(len(self.files))

    def _places(self, rows: pa.Array) -> pa.Array:
        places = self._place_of[rows]
        return pa.array(places, mask=places < 0)

    def kinds(self, rows: pa.Array) -> pa.Array:
        """Of what kind each file is by what is said of it last; null where nothing is."""
        return self._kinds.take(self._places(rows))

    def metadata(self, rows: pa.Array, beside: pa.Array) -> tuple[pa.Array, pa.Array]:
        """`carried` and `carried_etag` of files, of whose sidecars `beside` is the etag."""
        places = self._places(rows)
        counts = pa.array(self._counts).take(places).fill_null(0)
        is_merged = pc.or_(pc.greater(counts, 1), pc.and_(pc.greater(counts, 0), beside.is_valid()))
        said = pc.binary_join(self._all.take(places.filter(is_merged)), _COMMA)
        carried = [f"[{objects}]" for objects in said.to_pylist()]
        etags = list(map(_etag_of, beside.filter(is_merged).to_pylist(), carried))
        return (
            pc.replace_with_mask(self._first.take(places), is_merged, pa.array(carried, pa.large_string())),
            pc.replace_with_mask(beside, is_merged, pa.array(etags, pa.string())),
        )


def _table(**columns: Any) -> pa.Table:
    """Rows of a listing (`_ROWS`); columns that are not given are null."""
    num_rows = len(columns["uri"])
    return pa.table({name: columns.get(name, pa.nulls(num_rows)) for name in _ROWS.names}, schema=_ROWS)


def _problem(container: Source, inventory: Inventory) -> Iterator[dict[str, Any]]:
    """A container that something is wrong with, as a row."""
    if inventory.error is not None:
        yield {
            "uri": printable(container.uri),
            "kind": container.kind,
            "size_bytes": container.size_bytes,
            "etag": container.etag,
            "error_type": inventory.error_type,
            "error": inventory.error,
            "place": printable(container.uri),
            "position": -1,
        }


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows of tables; those of a single table are not copied."""
    return pa.concat_tables([_ROWS.empty_table(), *(table for table in tables if table.num_rows)])


def _are_files_in_order(places: pa.ChunkedArray) -> bool:
    """Whether every place comes after the one before it: nothing clashes, and nothing is to sort.

    So it is with a folder of files, of which millions are to be neither hashed nor copied.
    """
    return bool(pc.all(pc.less(places[:-1], places[1:])).as_py())


def _sorted(rows: pa.Table) -> pa.Table:
    """Rows in order of place."""
    order = np.lexsort((rows["position"].to_numpy(), _ranks(rows["place"])))
    return rows.take(pa.array(order))


def _ranks(places: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where each place stands among all that there are, in order."""
    codes = places.combine_chunks().dictionary_encode()
    ranks = np.empty(len(codes.dictionary), np.int64)
    ranks[pc.sort_indices(codes.dictionary)] = np.arange(len(ranks))
    found: NDArray[np.int64] = ranks[codes.indices]
    return found


def _once(rows: pa.Table) -> pa.Table:
    """Every URI once: of several rows of one the last, with what all of them say.

    Names that are printed alike are all that brings several here.
    """
    if pc.count_distinct(rows["uri"]).as_py() == rows.num_rows:
        return rows
    codes = rows["uri"].combine_chunks().dictionary_encode().indices.to_numpy()
    is_single = np.bincount(codes)[codes] == 1
    by_uri: dict[str, list[dict[str, Any]]] = {}
    for row in rows.filter(pa.array(~is_single)).to_pylist():
        by_uri.setdefault(row["uri"], []).append(row)
    several = pa.Table.from_pylist([_together(same) for same in by_uri.values()], schema=_ROWS)
    return pa.concat_tables([rows.filter(pa.array(is_single)), several])


def _together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of one URI as one."""
    said: list[Any] = []
    sidecars: dict[str, None] = {}
    for row in rows:
        values = json.loads(row["carried"] or "{}")
        said += values if isinstance(values, list) else [values]
        lines = (row["carried_etag"] or "").splitlines()
        sidecars |= dict.fromkeys(line for line in lines if line.startswith("."))
    carried = json.dumps(said, ensure_ascii=False)
    return {**rows[-1], "carried": carried, "carried_etag": _etag_of("\n".join(sidecars), carried)}


def _etag_of(sidecars: str | None, carried: str) -> str:
    """An etag of sidecars and of what lists say."""
    lists = f"lists {hashlib.sha256(carried.encode()).hexdigest()}"
    return f"{sidecars}\n{lists}" if sidecars else lists
