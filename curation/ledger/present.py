"""What was in the inputs when they were listed last.

    <output>/listing/present.parquet    uri and etag of everything that the last run listed

Commands that do not list ask here, and so say what the last run knew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import DamagedFileError
from curation.ingest.listed import ListedSources
from curation.ingest.locator import LEADING_DOTS
from curation.ingest.suffixes import kind_of
from curation.records import SourceKind
from curation.storage import Storage, parquet

PRESENT = "listing/present.parquet"
_LISTED = pa.schema([("uri", pa.string()), ("etag", pa.string())])


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


class LastListing:
    """What the last run listed, part by part, so that it need not be held."""

    def __init__(self, storage: Storage) -> None:
        self._name = f"{storage.root}/{PRESENT}"
        self._data = storage.read(PRESENT)

    @property
    def is_there(self) -> bool:
        """Whether a run has listed anything."""
        return self._data is not None

    def parts(self) -> Iterator[pa.RecordBatch]:
        """Its `uri` and `etag`.

        Raises:
            DamagedFileError: it is not what was written.
        """
        if self._data is not None:
            yield from parquet.batches_from_bytes(self._data, self._name, _check_listed)

    def kinds(self, wanted: NDArray[np.bool_]) -> Mapping[SourceKind, int]:
        """How many of the wanted places have sources of each kind.

        Rows of Parquet files have no suffix: they are taken for pictures.
        """
        found: Counter[SourceKind] = Counter()
        start = 0
        for part in self.parts():
            mine = wanted[start : start + part.num_rows]
            start += part.num_rows
            if mine.any():
                names = match_names(part["uri"].filter(pa.array(mine)))
                found.update(kind_of(name) or "image" for name in names.to_pylist())
        return found


def match_names(uris: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`plain_uri` of a column."""
    names = uris.combine_chunks() if isinstance(uris, pa.ChunkedArray) else uris
    if not pc.any(pc.match_substring_regex(names, LEADING_DOTS)).as_py():
        return names  # replacing nothing takes ten times as long as looking
    return pc.replace_substring_regex(names, LEADING_DOTS, r"\1")


def listed_uris(storage: Storage) -> list[str]:
    """The URIs of everything that the last run listed; none where no run has."""
    listed = _listed(storage)
    return [] if listed is None else listed["uri"].to_pylist()


def _listed(storage: Storage) -> pa.Table | None:
    listing = LastListing(storage)
    return pa.Table.from_batches(listing.parts(), _LISTED) if listing.is_there else None


def _check_listed(schema: pa.Schema) -> None:
    """Raises ValueError: that is no listing."""
    if not schema.equals(_LISTED):
        raise ValueError("it lists no sources")
