"""Which sources of the ledger are in the inputs now: those of the last listing, each in one version.

    <output>/listing/present.parquet    uri and etag of everything that the last run listed

The ledger keeps what was measured of a file that is gone, so that nothing is measured again if it comes
back. Commands that do not list ask here, too, and so say what the last run knew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import DamagedFileError
from curation.ingest.listed import ListedSources
from curation.ingest.locator import LEADING_DOTS
from curation.ingest.metadata import PROBLEM
from curation.ingest.suffixes import kind_of
from curation.ledger import Ledger
from curation.records import SourceKind
from curation.storage import Storage, open_storage, parquet

PRESENT = "listing/present.parquet"
_LISTED = pa.schema([("uri", pa.string()), ("etag", pa.string())])
_GONE = pa.schema([("source_id", pa.string()), ("uri", pa.string())])
_COLUMNS = ("source_id", "uri", "etag", "kind")


@dataclass(frozen=True)
class Absent:
    """Sources of the ledger that do not count, as columns.

    Attributes:
        gone_sources: `source_id` and `uri` of the sources that are no longer in the inputs.
        replaced_ids: Ids of the other versions of files: a source is one version of a file.
        unread: Kind of source -> how many the last listing has that nobody has read yet.
    """

    gone_sources: pa.Table = field(default_factory=_GONE.empty_table)
    replaced_ids: pa.ChunkedArray = field(default_factory=lambda: pa.chunked_array([], pa.string()))
    unread: Mapping[SourceKind, int] = field(default_factory=dict)

    @cached_property
    def gone(self) -> Mapping[str, str]:
        """Id -> URI of the sources that are no longer in the inputs."""
        return dict(zip(*(column.to_pylist() for column in self.gone_sources.columns), strict=True))

    @cached_property
    def replaced(self) -> frozenset[str]:
        """Ids of the other versions of files."""
        return frozenset(self.replaced_ids.to_pylist())

    @property
    def source_ids(self) -> pa.Array:
        """All of them."""
        chunks = [*self.gone_sources["source_id"].chunks, *self.replaced_ids.chunks]
        return pa.chunked_array(chunks, pa.string()).combine_chunks()

    def __contains__(self, source_id: object) -> bool:
        return source_id in self.gone or source_id in self.replaced


def listing_to_bytes(sources: ListedSources) -> bytes:
    """What `PRESENT` holds where these are in the inputs."""
    return parquet.to_bytes(sources.table.select(_LISTED.names).cast(_LISTED).combine_chunks())


def remember_listing(storage: Storage, sources: ListedSources) -> None:
    """Write what is in the inputs now; left alone if it says so already."""
    data = listing_to_bytes(sources)
    if storage.read(PRESENT) != data:
        storage.write(PRESENT, data)


def come_and_gone(storage: Storage, sources: ListedSources) -> dict[str, int]:
    """How many files of a listing are `new` since the last one, and how many are `gone` since.

    Without a last listing all are new.
    """
    try:
        before = _listed(storage)
    except DamagedFileError:
        before = None
    names = match_names(sources.table["uri"])
    if before is None:
        return {"new": len(names), "gone": 0}
    known = match_names(before["uri"])

    def num_lacking(wanted: pa.Array, there: pa.Array) -> int:
        return len(wanted) - (pc.sum(pc.is_in(wanted, value_set=there)).as_py() or 0)

    return {"new": num_lacking(names, known), "gone": num_lacking(known, names)}


def absent_sources(ledger: Ledger) -> Absent:
    """Compare the ledger with the last listing.

    Of the versions of a file, the one with the listed etag counts, else the newest: it may be the same
    bytes under another date, and the next run finds out. Without a listing nothing is gone.

    Raises:
        DamagedFileError: the listing is damaged; a run writes it anew before it asks.
    """
    known = ledger.sources_table(_COLUMNS)
    listed = _listed(ledger.storage)
    names = match_names(known["uri"])
    place_of = np.full(known.num_rows, -1)
    is_listed = np.ones(known.num_rows, bool)
    is_current = np.zeros(known.num_rows, bool)
    unread: Mapping[SourceKind, int] = {}
    if listed is not None:
        places = pc.index_in(names, value_set=match_names(listed["uri"]))
        place_of = np.asarray(places.fill_null(-1), np.int64)
        is_listed = place_of >= 0
        is_current = np.asarray(pc.equal(known["etag"], listed["etag"].take(places)).fill_null(False))
        unread = _unread(listed["uri"], names)
    stands = _newest(_file_numbers(names, place_of), is_current)
    # A container that could not be listed is a source as long as that is so.
    is_media = np.asarray(pc.not_equal(known["kind"], "container"))
    gone = known.filter(pa.array(stands & ~is_listed & is_media))
    replaced = known.filter(pa.array(~stands | (~is_listed & ~is_media)))
    if replaced.num_rows:
        # A source that two units hold by mistake is not replaced by itself: it counts twice, and is noticed.
        present = known["source_id"].filter(pa.array(stands & is_listed)).combine_chunks()
        replaced = replaced.filter(pc.invert(pc.is_in(replaced["source_id"], value_set=present)))
    return Absent(gone.select(_GONE.names), replaced["source_id"], unread)


def _unread(listed: pa.ChunkedArray, known: pa.Array) -> Mapping[SourceKind, int]:
    """The listed sources that no row of the ledger is about, by their kind.

    Rows of Parquet files have no suffix: they are taken for pictures.
    """
    names = match_names(listed)
    unread = pc.unique(names.filter(pc.invert(pc.is_in(names, value_set=known)))).to_pylist()
    return Counter(kind_of(name) or "image" for name in unread)


def num_bad_metadata(ledger: Ledger, absent: Absent | None = None) -> int:
    """How many sources in the inputs came with something that could not be kept.

    Who knows the absent sources already says so: to find them, all sources are read.
    """
    known = ledger.sources_table(("source_id", "carried"))
    bad = known.filter(pc.match_substring(known["carried"], f'"{PROBLEM}":'))["source_id"]
    if not len(bad):
        return 0
    absent = absent_sources(ledger) if absent is None else absent
    return len(bad) - int(pc.sum(pc.is_in(bad, absent.source_ids)).as_py())


def absent_beside(shards: str) -> Absent:
    """The absent sources of the output that a folder of shards lies in; none where it lies in no output.

    Raises:
        StorageError: the folder can't be read.
    """
    if "://" in shards:
        root, _, _ = shards.rstrip("/").rpartition("/shards/")
    else:
        root = str(Path(shards).resolve().parent.parent)
    ledger = Ledger(open_storage(root)) if root else None
    return absent_sources(ledger) if ledger and ledger.storage.find(PRESENT) else Absent()


def match_names(uris: pa.ChunkedArray) -> pa.Array:
    """`plain_uri` of a column."""
    names = uris.combine_chunks()
    if not pc.any(pc.match_substring_regex(names, LEADING_DOTS)).as_py():
        return names  # replacing nothing takes ten times as long as looking
    return pc.replace_substring_regex(names, LEADING_DOTS, r"\1")


def _file_numbers(names: pa.Array, place_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number per name: the place in the listing, and behind all of these one where there is none (-1)."""
    numbers = place_of.copy()
    is_unlisted = place_of < 0
    unlisted = names.filter(pa.array(is_unlisted)).dictionary_encode().indices
    numbers[is_unlisted] = np.asarray(unlisted) + place_of.max(initial=-1) + 1
    return numbers


def _newest(files: NDArray[np.int64], is_current: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the rows of each file, whether it is the last current one, or the last one if none is current."""
    newest = np.full(files.max(initial=-1) + 1, -1)
    newest[files] = np.arange(len(files))  # of several rows the last
    newest[files[is_current]] = np.flatnonzero(is_current)
    stands = np.zeros(len(files), bool)
    stands[newest[newest >= 0]] = True
    return stands


def listed_uris(storage: Storage) -> list[str]:
    """The URIs of everything that the last run listed; none where no run has."""
    listed = _listed(storage)
    return [] if listed is None else listed["uri"].to_pylist()


def _listed(storage: Storage) -> pa.Table | None:
    data = storage.read(PRESENT)
    if data is None:
        return None
    name = f"{storage.root}/{PRESENT}"
    table = parquet.from_bytes(data, name)
    if not table.schema.equals(_LISTED):
        raise DamagedFileError.of({name: "it lists no sources"})
    return table
