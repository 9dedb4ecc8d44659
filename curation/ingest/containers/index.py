"""What containers hold, kept under the output, so that a file that did not change is listed once.

<output>/listing/<id of the container>.parquet    its entries; etag, error and counts as metadata

Listings that failed are kept too: a container is listed again when it changed or when that is asked for.
Which files its rows stand for is settled at each run, since that depends on the files around it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from curation.errors import LedgerError, ProbeError
from curation.errors.isolation import isolated
from curation.ingest.containers.reader import ENTRIES, Container, Inventory
from curation.ingest.locator import locator_of
from curation.ingest.reach import blaming_the_file
from curation.ingest.sources import container_reader
from curation.ingest.tombstones import Tombstones, read_tombstones
from curation.records import Source, stable_id
from curation.storage import Storage, parquet

_VERSION = "4"
"""Raise it when a reader finds other sources in the same file, or tells other things about them."""
_FACTS = b"listing"


def nothing() -> None:
    """Progress that nobody waits for."""


class ListingIndex:
    """Lists containers, or remembers what listing them said.

    Attributes:
        unlisted: Containers that were taken for empty, because they were to be listed and may not be.
    """

    def __init__(self, output: Storage, *, may_list: bool = True) -> None:
        """`may_list`: whether `inventory` may read containers; what it may not list it takes for empty."""
        self._output = output
        self._may_list = may_list
        self.unlisted: list[Source] = []

    def inventory(self, container: Source) -> Inventory:
        """What a container holds; one that is not in the index is listed now."""
        known = self._known(container)
        if known is None and not self._may_list:
            self.unlisted.append(container)
            return Inventory()
        return self.list_now(container) if known is None else known

    def lacks(self, container: Source, *, retry_failed: bool = False) -> bool:
        """Whether a container has to be listed: it is new, has changed, or failed and is tried again."""
        facts = self._facts(container)
        return facts is None or (retry_failed and facts["error"] is not None)

    def list_now(self, container: Source, on_progress: Callable[[], None] = nothing) -> Inventory:
        """List a container, whatever the index says of it, and keep what came out."""
        return self._write(container, _listed(container, on_progress))

    def give_up(self, container: Source, error_type: str, error: str) -> None:
        """Note that a container can't be listed."""
        self._write(container, Inventory(error_type=error_type, error=error))

    def checked(self, container: Source, on_progress: Callable[[], None] = nothing) -> Source:
        """A failed container with what listing it said last: no error if it was listed to its end."""
        inventory = self._known(container)
        if inventory is None:
            inventory = self.list_now(container, on_progress)
        return replace(container, error_type=inventory.error_type, error=inventory.error)

    def _write(self, container: Source, inventory: Inventory) -> Inventory:
        """Keep what a container holds, without what was retracted; that."""
        tombstones = read_tombstones(self._output)
        inventory = replace(inventory, entries=tombstones.without(container.uri, inventory.entries))
        facts = {
            "version": _VERSION,
            "uri": container.uri,
            "etag": container.etag,
            "num_ignored": inventory.num_ignored,
            "left_out": inventory.left_out,
            "error_type": inventory.error_type,
            "error": inventory.error,
        }
        schema = ENTRIES.with_metadata({_FACTS: json.dumps(facts).encode()})
        batches = inventory.entries.replace_schema_metadata(schema.metadata).to_batches()
        self._output.write(_key(container), parquet.batches_to_bytes(batches, schema))
        return inventory

    def holds(self, key: str, tombstones: Tombstones) -> bool:
        """Whether an object of the index is, or has an entry, of what was retracted."""
        uri, table = self._object(key)
        if uri is None or table is None:
            return False
        return tombstones.covers(uri) or tombstones.without(uri, table).num_rows < table.num_rows

    def take_out(self, key: str, tombstones: Tombstones) -> None:
        """Remove what was retracted from an object of the index, or the object of a container that was."""
        uri, table = self._object(key)
        if uri is None or table is None:
            return
        if tombstones.covers(uri):
            self._output.delete(key)
            return
        stays = tombstones.without(uri, table)
        if stays.num_rows < table.num_rows:
            batches = stays.combine_chunks().to_batches()
            self._output.write(key, parquet.batches_to_bytes(batches, table.schema))

    def _object(self, key: str) -> tuple[str | None, pa.Table | None]:
        """The container that an object of the index is about, and all that it says."""
        data = self._output.read(key)
        if data is None:
            return None, None
        return self.listed_container(key), parquet.from_bytes(data, key)

    def listed_container(self, key: str) -> str | None:
        """The URI of the container that an object of the index is about; None if it does not tell."""
        try:
            with self._output.open(key) as file:
                facts = json.loads(parquet.schema_of(file, key).metadata[_FACTS])
        except (LedgerError, KeyError, TypeError, ValueError):
            return None
        return facts.get("uri") if isinstance(facts, dict) else None

    def _facts(self, container: Source) -> dict[str, Any] | None:
        """What is known of a container as it is now, without its entries."""
        key = _key(container)
        if self._output.find(key) is None:
            return None
        try:
            with self._output.open(key) as file:
                return _current(parquet.schema_of(file, key), container)
        except LedgerError:
            return None  # it is only a copy

    def _known(self, container: Source) -> Inventory | None:
        key = _key(container)
        data = self._output.read(key)
        if data is None:
            return None
        try:
            table = parquet.from_bytes(data, key)
        except LedgerError:
            return None  # it is only a copy
        facts = _current(table.schema, container)
        if facts is None:
            return None
        return Inventory(
            table.replace_schema_metadata(None),
            facts["num_ignored"],
            facts["left_out"],
            facts["error_type"],
            facts["error"],
        )


def _key(container: Source) -> str:
    return f"listing/{stable_id(container.uri)}.parquet"


def _listed(container: Source, on_progress: Callable[[], None]) -> Inventory:
    storage, key = locator_of(container.uri).open_storage()
    reader = container_reader(key)
    item = storage.find(key)
    if item is None or reader is None:
        return Inventory(error_type="ProbeError", error=f"{key} is not there any more")
    try:
        with isolated(ProbeError), blaming_the_file():
            inventory = reader.list(Container(storage, locator_of(container.uri).path, item), on_progress)
    except ProbeError as error:
        inventory = Inventory(error=str(error))
    after = storage.find(key)
    if after is None or after.etag != container.etag:
        inventory = Inventory(error=f"{key} was changed while it was listed; another run lists it anew")
    return inventory if inventory.error is None else replace(inventory, error_type="ProbeError")


def _current(schema: pa.Schema, container: Source) -> dict[str, Any] | None:
    """The facts in an index file; None if they are about another version of the container."""
    facts: dict[str, Any] = json.loads((schema.metadata or {}).get(_FACTS, b"{}"))
    is_current = (facts.get("version"), facts.get("etag")) == (_VERSION, container.etag)
    return facts if is_current else None
