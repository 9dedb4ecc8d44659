"""A retraction, from what is asked for to the record of what went. It can be interrupted anywhere.

    retraction = plan_retraction(storage, asked, command="curation retract")
    carry_out(storage, retraction)

What is to do is written down first, with the tombstones: from then on no run takes the sources up, and every
other command finishes the retraction or refuses. Each further step may be done twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from curation.errors import LedgerError
from curation.execution.takedown.lineage import Lineage, Windows
from curation.execution.takedown.request import Asked, is_listing, listing_key
from curation.ingest.containers.index import ListingIndex
from curation.ingest.listed import ListedSources
from curation.ingest.tombstones import (
    PENDING,
    Tombstone,
    Tombstones,
    add_tombstones,
    container_of,
    name_id,
    read_tombstones,
)
from curation.ledger import Ledger
from curation.ledger.present import PRESENT, remember_listing
from curation.records import Sample
from curation.registry import RETRACT_SHARDS, load
from curation.report.gallery.stored import PICTURES, forget_pictures, read_pictures
from curation.storage import Storage, full_root, open_storage, parquet
from curation.version import __version__

RECORDS = "retracted/records.jsonl"
"""What each retraction removed; it names sources by their ids alone."""
_REPORT = "report"
_OWN_ROOMS = ("sources/", "ledger/", "listing/", "report/", "retracted/", "run.json")
"""What a run writes, and a retraction takes care of, apart from shards."""


@dataclass(frozen=True, kw_only=True)
class Retraction:
    """What goes, and all that has to be done for it.

    Attributes:
        when: ISO 8601, UTC.
        command: The command that asked for it, without what it named.
        tombstones: What is retracted.
        units: Those that hold such sources.
        emptied: Those that hold nothing else.
        counts: What goes, in numbers: rows by table, listings, samples and files of shards.
        listings: Keys of containers' listings that are concerned.
        folders: Folders of shards that are concerned, as `ConcernedFolder`.
        exports: Folder of an export -> its files that hold samples which go; under the output's own name its
            files that no run wrote, such as exports.
    """

    when: str
    command: str
    tombstones: tuple[Tombstone, ...]
    units: tuple[int, ...] = ()
    emptied: tuple[int, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    listings: tuple[str, ...] = ()
    folders: tuple[dict[str, Any], ...] = ()
    exports: dict[str, list[str]] = field(default_factory=dict)
    curation: str = __version__

    @property
    def source_ids(self) -> list[str]:
        """Every source that goes."""
        return sorted({source_id for stone in self.tombstones for source_id in stone.source_ids})

    def to_json(self) -> bytes:
        """As it is written down."""
        return json.dumps(asdict(self), indent=1).encode()


def alone(sample: Sample) -> Sequence[Sample]:
    """A sample has no windows, as far as is known."""
    return (sample,)


def plan_retraction(
    storage: Storage,
    asked: Asked,
    *,
    command: str,
    windows: Windows = alone,
    exports: Mapping[str, Storage] | None = None,
    when: datetime | None = None,
) -> Retraction:
    """Find all that hangs on what is asked for; nothing is changed.

    Args:
        storage: The output.
        asked: Its targets come to know the sources that only the shards still have.
        command: For the record.
        windows: What is measured of a clip by itself, by the present configuration.
        exports: Folders of exports to look through.
        when: For the record; now, if it is not given.

    Raises:
        LedgerError: a file that has to be looked through is damaged.
    """
    folders, sample_ids = load(f"{RETRACT_SHARDS}:find_folders")(
        storage, lambda rows: _meet_rows(asked, rows)
    )
    at = (when or datetime.now(UTC)).isoformat(timespec="seconds")
    stones = tuple(
        Tombstone(
            id=name_id(target.uri),
            retracted=at,
            source_ids=tuple(sorted(target.source_ids)),
            content_hashes=tuple(sorted(target.content_hashes)),
        )
        for target in sorted(asked.targets.values(), key=lambda target: target.uri)
    )
    listings = _listings(storage, asked, Tombstones(stones))
    source_ids = {source_id for stone in stones for source_id in stone.source_ids}
    lineage = Lineage(Ledger(storage), source_ids, windows)
    counts = lineage.counts()
    counts |= {"listings of containers": len(listings)} if listings else {}
    for folder in folders:
        counts |= {
            f"{folder.folder} samples": folder.num_samples,
            f"{folder.folder} files": len(folder.files),
        }
    # More than the shards hold now: an export may be older than a threshold that was moved.
    ids = lineage.ids.union(sample_ids, source_ids)
    rewritten = {f"{folder.folder}/{name}" for folder in folders for name in folder.files}
    return Retraction(
        when=at,
        command=command,
        tombstones=stones,
        units=tuple(lineage.units),
        emptied=tuple(sorted(lineage.emptied)),
        counts=counts,
        listings=tuple(listings),
        folders=tuple(asdict(folder) for folder in folders),
        exports=_files_with(ids, storage, rewritten, exports or {}),
    )


def _files_with(
    ids: set[str], storage: Storage, rewritten: set[str], exports: Mapping[str, Storage]
) -> dict[str, list[str]]:
    """The files that hold what goes: of each export, and of the output those that no run wrote, if any."""
    files_with = load(f"{RETRACT_SHARDS}:files_with")
    found = {name: files_with(place, ids) for name, place in exports.items()}
    inside = [key for key in files_with(storage, ids, passed_over=_OWN_ROOMS) if key not in rewritten]
    return {**found, **({storage.root: inside} if inside else {})}


def _meet_rows(asked: Asked, rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows of shards are of what is asked for."""
    found = {uri: asked.meet(uri) for uri in rows["source_uri"].unique().to_pylist()}
    by_id = {source_id for target in asked.targets.values() for source_id in target.source_ids}
    pairs = list(zip(rows["source_uri"].to_pylist(), rows["source_id"].to_pylist(), strict=True))
    for uri, source_id in {pair for pair in pairs if found[pair[0]]}:
        asked.meet(uri, source_id)
    return np.array([found[uri] or source_id in by_id for uri, source_id in pairs], np.bool_)


def _listings(storage: Storage, asked: Asked, stones: Tombstones) -> list[str]:
    """Keys of the listings that hold what goes, or are of a container that goes."""
    index = ListingIndex(storage)
    containers = (container_of(uri) or uri for uri in asked.targets)
    keys = {key for key in map(listing_key, containers) if storage.find(key) is not None}
    for item in storage.list("listing"):
        # What a tar holds is a source by itself; other containers may name files.
        uri = index.listed_container(item.key) if is_listing(item.key) and item.key not in keys else None
        if uri is not None and not uri.startswith("tar://"):
            keys.add(item.key)
    return sorted(key for key in keys if index.holds(key, stones))


def carry_out(
    storage: Storage,
    retraction: Retraction,
    *,
    windows: Windows = alone,
    conclude: Callable[[], None] | None = None,
) -> None:
    """Remove everything. Only for who holds the output alone; called again after it was interrupted.

    Args:
        storage: The output.
        retraction: What `plan_retraction` or `pending_retraction` gave.
        windows: As for the plan.
        conclude: Writes anew what tells of the output as a whole, once the sources are gone.
    """
    data = retraction.to_json()
    if storage.read(PENDING) != data:
        storage.write(PENDING, data)
    add_tombstones(storage, retraction.tombstones)
    stones = read_tombstones(storage)
    index = ListingIndex(storage)
    for key in retraction.listings:
        index.take_out(key, stones)
    _forget_listed(storage, stones)
    _take_out_rows(Ledger(storage), retraction, windows)
    for record in retraction.folders:
        folder = load(f"{RETRACT_SHARDS}:ConcernedFolder")(**record)
        load(f"{RETRACT_SHARDS}:rewrite_folder")(storage, folder, retraction.source_ids)
    _forget_report(storage, retraction.source_ids)
    if conclude is not None:
        conclude()
    _keep_record(storage, retraction)
    storage.delete(PENDING)


def _take_out_rows(ledger: Ledger, retraction: Retraction, windows: Windows) -> None:
    """Take out the rows of the stages, and then those of the sources, by which the others are found."""
    lineage = Lineage(ledger, retraction.source_ids, windows)
    for step in lineage.steps:
        ledger.take_out(step, lineage.units, lineage.stays, lineage.emptied)
    ledger.take_out(None, retraction.units, lineage.source_stays, retraction.emptied)


def _forget_listed(storage: Storage, stones: Tombstones) -> None:
    """Take what was retracted out of the list of what is in the inputs."""
    data = storage.read(PRESENT)
    if data is None:
        return
    listed = parquet.from_bytes(data, f"{storage.root}/{PRESENT}").replace_schema_metadata(None)
    is_gone = stones.cover(listed["uri"])
    if is_gone.any():
        remember_listing(storage, ListedSources(listed.filter(pa.array(~is_gone))))


def _forget_report(storage: Storage, source_ids: Sequence[str]) -> None:
    """Remove the report and the pictures of these sources; it is made anew from what is left."""
    for item in storage.list(_REPORT):
        if item.key != PICTURES:
            storage.delete(item.key)
    forget_pictures(storage, source_ids=source_ids)
    if not read_pictures(storage):
        storage.delete(PICTURES)  # also one that can't be read: nobody knows what is in it


def _keep_record(storage: Storage, retraction: Retraction) -> None:
    lines = (storage.read(RECORDS) or b"").splitlines(keepends=True)
    number = hashlib.sha256(retraction.to_json()).hexdigest()[:16]
    record = asdict(retraction)
    del record["units"], record["emptied"]
    record["tombstones"] = [stone["id"] for stone in record["tombstones"]]
    record["folders"] = {folder["folder"]: list(folder["files"]) for folder in record["folders"]}
    line = json.dumps({"id": number, **record}).encode() + b"\n"
    if line not in lines:
        storage.write(RECORDS, b"".join([*lines, line]))


def pending_retraction(storage: Storage) -> Retraction | None:
    """The retraction that was begun and not finished, if there is one.

    Raises:
        LedgerError: what it is to do can't be read.
    """
    data = storage.read(PENDING)
    if data is None:
        return None
    try:
        found: Retraction = TypeAdapter(Retraction).validate_json(data)
    except ValidationError as error:
        raise LedgerError(
            f"{storage.root}/{PENDING} can't be read; remove it, and retract the same sources again"
        ) from error
    return found


def finish_pending(storage: Storage, windows: Windows = alone) -> Retraction | None:
    """Finish a retraction that was interrupted. Only for who holds the output alone."""
    retraction = pending_retraction(storage)
    if retraction is not None:
        carry_out(storage, retraction, windows=windows)
    return retraction


def check_none_pending(storage: Storage) -> None:
    """Make sure that nothing is shown of sources that are being retracted.

    Raises:
        LedgerError: a retraction was begun and not finished.
    """
    if storage.find(PENDING) is not None:
        raise LedgerError(
            f"{storage.root}: a retraction was begun here and is not finished; `curation retract --output "
            f"{storage.root}` finishes it, and so does `curation run`"
        )


def check_shards_readable(folder: str) -> None:
    """`check_none_pending` of the output that a folder of shards lies in, if it does."""
    root, _, name = full_root(open_storage(folder)).rpartition("/")
    output, _, shards = root.rpartition("/")
    if name and shards == "shards" and output:
        check_none_pending(open_storage(output))


def copies_of_retracted(ledger: Ledger) -> list[str]:
    """URIs of the sources that hold the same bytes as one that was retracted."""
    hashes = read_tombstones(ledger.storage).content_hashes
    if not hashes:
        return []
    known = ledger.sources_table(("uri", "content_hash"))
    is_copy = pc.is_in(known["content_hash"], value_set=pa.array(sorted(hashes), pa.string()))
    return sorted(known["uri"].filter(is_copy).to_pylist())
