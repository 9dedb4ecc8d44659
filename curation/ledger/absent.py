"""Which sources of the ledger do not count: those that are gone from the inputs, and other versions of files.

The ledger keeps what was measured of a file that is gone, so that nothing is measured again if it comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import LedgerError
from curation.ingest.metadata import PROBLEM
from curation.ledger import Ledger
from curation.ledger.digests import Digests, hashed
from curation.ledger.present import PRESENT, LastListing, match_names
from curation.ledger.schemas import SOURCES
from curation.records import SourceKind
from curation.storage import open_storage

NUM_TRIES = 5
_GONE = pa.schema([("source_id", pa.string()), ("uri", pa.string())])
_UNITS_AT_ONCE = 256
_NO_HASHES = np.zeros(0, np.int64)


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


def absent_sources(ledger: Ledger) -> Absent:
    """Compare the ledger with the last listing.

    Of the versions of a file, the one with the listed etag counts, else the newest: it may be the same
    bytes under another date, and the next run finds out. Without a listing nothing is gone.

    Of each name a digest is held, not the name: that is the difference between one gigabyte and four at ten
    million sources.

    Raises:
        DamagedFileError: the listing is damaged; a run writes it anew before it asks.
        LedgerError: a run keeps on changing the sources meanwhile.
    """
    for _ in range(NUM_TRIES):
        try:
            return _absent_sources(ledger)
        except _UnitChanged:
            continue
    raise LedgerError(f"{ledger.storage.root}: its sources changed {NUM_TRIES} times while they were read")


class _UnitChanged(Exception):
    """A unit has other rows than when it was read first."""


def _absent_sources(ledger: Ledger) -> Absent:
    listing, names = LastListing(ledger.storage), Digests()
    listed_etags = [_hashes(part["etag"]) for part in _noting(names, listing.parts())]
    num_listed = len(names)
    num_rows: dict[int, int] = {}
    etags, is_media = [_NO_HASHES], [np.zeros(0, bool)]
    for part in _noting(names, _sources(ledger, ("uri", "etag", "kind"), num_rows)):
        etags.append(_hashes(part["etag"]))
        # A container that could not be listed is a source as long as that is so.
        is_media.append(pc.not_equal(part["kind"], "container").to_numpy())
    groups = names.groups()
    listed, files = groups[:num_listed], groups[num_listed:]
    known = _Known(files, np.concatenate(etags), np.concatenate(is_media))
    if not listing.is_there:
        everyone = np.ones(len(files), bool)
        return _absent(ledger, num_rows, known, everyone, _newest(files, ~everyone), {})
    first = _first_of(listed, groups)
    is_listed = first[files] >= 0
    etag_of = np.concatenate([*listed_etags, np.zeros(1, np.int64)])  # the last one is never looked at
    is_current = is_listed & (etag_of[first[files]] == known.etags)
    is_unread = (first[listed] == np.arange(num_listed)) & ~np.isin(listed, files)
    return _absent(ledger, num_rows, known, is_listed, _newest(files, is_current), listing.kinds(is_unread))


@dataclass(frozen=True)
class _Known:
    """The sources of the ledger, in the order in which they are read.

    Attributes:
        files: int32 [N], the same number for versions of the same file.
        etags: int64 [N], hashes.
        is_media: bool [N], whether it is a picture or a video.
    """

    files: NDArray[np.int32]
    etags: NDArray[np.int64]
    is_media: NDArray[np.bool_]


def _absent(
    ledger: Ledger,
    num_rows: Mapping[int, int],
    known: _Known,
    is_listed: NDArray[np.bool_],
    stands: NDArray[np.bool_],
    unread: Mapping[SourceKind, int],
) -> Absent:
    """Read who does not count: the rest of the ledger is not read once more."""
    is_gone = stands & ~is_listed & known.is_media
    is_replaced = ~stands | (~is_listed & ~known.is_media)
    gone = _rows_of(ledger, _GONE.names, num_rows, is_gone)
    replaced = _rows_of(ledger, ["source_id"], num_rows, is_replaced)["source_id"]
    if len(replaced):
        # A source that two units hold by mistake is not replaced by itself: it counts twice, and is noticed.
        wanted = replaced.combine_chunks()
        parts = _each_unit(ledger, ["source_id"], num_rows, stands & is_listed)
        found = [part["source_id"].filter(pc.is_in(part["source_id"], value_set=wanted)) for part in parts]
        present = pa.chunked_array([chunk for ids in found for chunk in ids.chunks], pa.string())
        replaced = replaced.filter(pc.invert(pc.is_in(replaced, value_set=present.combine_chunks())))
    return Absent(gone, replaced, unread)


def _sources(ledger: Ledger, columns: Sequence[str], num_rows: dict[int, int]) -> Iterator[pa.Table]:
    """These columns of all sources, many units at a time; how many rows each unit has is noted."""
    held: list[pa.Table] = []
    for unit, part in ledger.scan_sources(columns, ledger.units()):
        num_rows[unit] = part.num_rows
        held.append(part)
        if len(held) >= _UNITS_AT_ONCE:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _rows_of(
    ledger: Ledger, columns: Sequence[str], num_rows: Mapping[int, int], wanted: NDArray[np.bool_]
) -> pa.Table:
    """These columns of the sources that are wanted."""
    return pa.concat_tables(
        [
            pa.schema([SOURCES.field(name) for name in columns]).empty_table(),
            *_each_unit(ledger, columns, num_rows, wanted),
        ]
    )


def _each_unit(
    ledger: Ledger, columns: Sequence[str], num_rows: Mapping[int, int], wanted: NDArray[np.bool_]
) -> Iterator[pa.Table]:
    """These columns of the sources that are wanted, unit by unit; units without any are not read."""
    starts = dict(zip(num_rows, np.cumsum([0, *num_rows.values()]).tolist(), strict=False))
    units = [unit for unit, start in starts.items() if wanted[start : start + num_rows[unit]].any()]
    for unit, part in ledger.scan_sources(columns, units):
        if part.num_rows != num_rows[unit]:
            raise _UnitChanged
        yield part.filter(pa.array(wanted[starts[unit] :][: num_rows[unit]]))


def _noting(
    names: Digests, parts: Iterable[pa.Table | pa.RecordBatch]
) -> Iterator[pa.Table | pa.RecordBatch]:
    """The parts, once the names in them are noted."""
    for part in parts:
        names.add(hashed(match_names(part["uri"])))
        yield part


def _hashes(texts: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Numbers by which texts [N] are compared within this process."""
    return np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts))


def _first_of(listed: NDArray[np.int32], groups: NDArray[np.int32]) -> NDArray[np.int64]:
    """Of each group the first of its places in the listing; -1 where it has none."""
    first = np.full(groups.max(initial=-1) + 1, -1)
    first[listed[::-1]] = np.arange(len(listed))[::-1]  # of several places the last that is written
    return first


def _newest(files: NDArray[np.int32], is_current: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the rows of each file, whether it is the last current one, or the last one if none is current."""
    newest = np.full(files.max(initial=-1) + 1, -1)
    newest[files] = np.arange(len(files))  # of several rows the last
    newest[files[is_current]] = np.flatnonzero(is_current)
    stands = np.zeros(len(files), bool)
    stands[newest[newest >= 0]] = True
    return stands


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
