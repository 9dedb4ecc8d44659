"""What containers hold, kept under the output, so that a file that did not change is listed once.

<output>/listing/<id of the container>.parquet    its sources as listed; etag and counts as metadata
"""

from __future__ import annotations

from curation import tables
from curation.errors import LedgerError
from curation.ingest.place import Place
from curation.ingest.reader import Contents, Folder
from curation.ingest.sources import contents_of, reader_of
from curation.records import stable_id
from curation.storage import Listed, Storage

_VERSION = b"1"
"""Raise it when a reader finds other sources in the same file, or tells other things about them."""


class ListingIndex:
    """Lists containers, or remembers what listing them said."""

    def __init__(self, output: Storage) -> None:
        self._output = output

    def contents(self, folder: Folder, item: Listed) -> Contents:
        """What a file holds. Remembered if it follows from a container alone, and without an error."""
        reader = reader_of(item.key)
        if reader is None or not reader.scheme:
            return contents_of(folder, item)
        key = f"listing/{stable_id(Place(reader.scheme, folder.path(item.key)).uri)}.parquet"
        known = self._known(key, item)
        if known is not None:
            return known
        contents = contents_of(folder, item)
        if contents.error is None and contents.stands_alone:
            said = {"version": _VERSION, "etag": item.etag, "num_ignored": str(contents.num_ignored)}
            table = tables.sources_to_table(contents.sources).replace_schema_metadata(said)
            self._output.write(key, tables.to_bytes(table))
        return contents

    def _known(self, key: str, item: Listed) -> Contents | None:
        data = self._output.read(key)
        if data is None:
            return None
        try:
            table = tables.from_bytes(data, key)
        except LedgerError:
            return None  # it is only a copy
        said: dict[bytes, bytes] = table.schema.metadata or {}
        if (said.get(b"version"), said.get(b"etag")) != (_VERSION, item.etag.encode()):
            return None
        return Contents(tuple(tables.table_to_sources(table)), int(said[b"num_ignored"]))
