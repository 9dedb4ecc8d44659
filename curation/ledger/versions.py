"""Versions of files: which source a file is that was read again. No I/O.

A source is one version of a file: the same bytes under the same name, whatever their date. All
versions that are known stay in the ledger, in one unit, so that one that comes back finds its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from curation.ingest.locator import plain_uri
from curation.records import Source, stable_id

_UNREAD = "unread"
ReadAgain = Literal["same bytes", "other bytes", "other metadata"]
"""What is found where a file is read again."""


def settle(known: Sequence[Source], found: Iterable[Source]) -> list[Source]:
    """The sources of a unit, after some of its files were read again.

    Args:
        known: What the unit holds, within a file from old to new.
        found: What reading gave, as listed and probed.
    """
    places = {source.source_id: place for place, source in enumerate(known)}
    files: dict[str, list[Source]] = {}
    for source in known:
        files.setdefault(plain_uri(source.uri), []).append(source)
    for source in found:
        name = plain_uri(source.uri)
        files[name] = _settle_file(files.get(name, []), source)
    settled = [source for versions in files.values() for source in versions]
    return sorted(settled, key=lambda source: places.get(source.source_id, len(places)))


def num_reread(known: Sequence[Source], settled: Sequence[Source]) -> dict[ReadAgain, int]:
    """What became of the known sources of a unit when some of its files were read again."""
    old = {source.source_id: source for source in known}
    names = {plain_uri(source.uri) for source in known if source.ok}
    both = [(old[source.source_id], source) for source in settled if source.source_id in old]
    fresh = [source for source in settled if source.source_id not in old]
    return {
        "same bytes": sum(_is_dated(was, now) for was, now in both),
        "other bytes": sum(plain_uri(source.uri) in names for source in fresh),
        "other metadata": sum(was.metadata != now.metadata for was, now in both),
    }


def _is_dated(was: Source, now: Source) -> bool:
    return was.ok and was.etag != now.etag and was.content_hash == now.content_hash


def renew_metadata(known: Sequence[Source], listed: Iterable[Source]) -> list[Source]:
    """The sources of a unit with what comes along with them now; of each file the version that is listed."""
    now = {(plain_uri(source.uri), source.etag): source for source in listed}
    return [_carrying(source, now.get((plain_uri(source.uri), source.etag), source)) for source in known]


def _carrying(source: Source, other: Source) -> Source:
    """A source with the metadata of another."""
    return replace(source, metadata=other.metadata, metadata_etag=other.metadata_etag)


def _settle_file(versions: list[Source], found: Source) -> list[Source]:
    """The versions of one file, after it was read again."""
    # Of a version that never could be read nothing was measured: what is found now takes its place.
    read = [version for version in versions if version.content_hash or version.ok]
    if found.kind == "container":
        # One that can be listed now is no source: its contents are.
        return read if found.ok else [*read, found]
    same = next((version for version in read if version.content_hash == found.content_hash), None)
    if found.content_hash is not None and same is not None:
        return [_dated(version, found) if version is same else version for version in read]
    return [*read, replace(found, source_id=_new_id(versions, read, found))]


def _dated(version: Source, found: Source) -> Source:
    """A known version under its present date; where its header could not be used before, as read now."""
    if version.ok:
        return _carrying(replace(version, etag=found.etag), found)
    return replace(found, source_id=version.source_id, uri=version.uri)


def _new_id(versions: Sequence[Source], read: Sequence[Source], found: Source) -> str:
    """An id that depends on name and content, never on the date; that of the name for the first content."""
    if read:
        return stable_id(found.uri, found.content_hash or _UNREAD)
    return versions[0].source_id if versions else stable_id(found.uri)
