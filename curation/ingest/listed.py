"""Sources as a listing gives them: a table, of which a source is made when somebody works on it.

sources = listing.sources[:256]     # a slice of the table, which travels to a worker as it is
for source in sources: ...          # now what lies beside each file is read
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, overload

import pyarrow as pa

from curation.ingest.metadata import merged
from curation.ingest.sidecars import read_sidecars
from curation.ingest.suffixes import kind_of
from curation.records import MetadataValue, Source, stable_id

LISTED = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        ("carried", pa.large_string()),
        ("carried_etag", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]
)
"""Where `carried_etag` is null, `carried` is the metadata of a source, as JSON. Else its metadata has to be
put together of its sidecars and of the objects in `carried`, an array; the etag changes with all of these."""
_NUM_ROWS = 1024
"""Rows that are made objects at a time."""


class ListedSources(Sequence[Source]):
    """Sources of a listing. Whoever takes one reads the sidecars of its file."""

    def __init__(self, table: pa.Table) -> None:
        """`table` is of the schema `LISTED`."""
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Source: ...

    @overload
    def __getitem__(self, index: slice) -> ListedSources: ...

    def __getitem__(self, index: int | slice) -> Source | ListedSources:
        places = range(len(self))[index]
        if isinstance(places, range):
            return ListedSources(self.table.slice(places.start, len(places)))
        (record,) = self.table.slice(places, 1).to_pylist()
        return _source(record)

    def __iter__(self) -> Iterator[Source]:
        for batch in self.table.to_batches(_NUM_ROWS):
            yield from map(_source, batch.to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ListedSources) and self.table.equals(other.table)

    def __hash__(self) -> int:
        return hash(len(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled as it is, a slice would bring the whole table along.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, LISTED) as writer:
            writer.write_table(self.table)
        return _from_stream, (sink.getvalue().to_pybytes(),)

    def take(self, places: Any) -> ListedSources:
        """The sources at these places."""
        return ListedSources(self.table.take(pa.array(places, pa.int64())))


def _from_stream(data: bytes) -> ListedSources:
    return ListedSources(pa.ipc.open_stream(data).read_all())


def _source(record: Mapping[str, Any]) -> Source:
    """The source of a row, with all that comes along."""
    uri, etag = record["uri"], record["carried_etag"]
    return Source(
        source_id=stable_id(uri),
        uri=uri,
        kind=record["kind"],
        size_bytes=record["size_bytes"],
        etag=record["etag"],
        metadata=_metadata(uri, record["carried"], etag),
        metadata_etag=etag,
        error_type=record["error_type"],
        error=record["error"],
    )


def _metadata(uri: str, carried: str | None, etag: str | None) -> Mapping[str, MetadataValue]:
    if etag is None:
        return json.loads(carried or "{}")  # type: ignore[no-any-return]
    beside = read_sidecars(uri, etag)
    said = [merged(beside, values) for values in json.loads(carried or "[]")]
    if kind_of(uri) is not None or not said:
        said = [beside, *said]  # it is a source by itself, too
    return reduce(merged, said)
