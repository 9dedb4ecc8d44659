"""Lists the inputs: every file goes to the reader that takes it; what none takes is counted."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from curation.config import Config
from curation.errors import ConfigError
from curation.ingest.index import ListingIndex
from curation.ingest.place import Place, place_of, position_of
from curation.ingest.reader import Contents, Folder
from curation.ingest.sources import reader_of
from curation.records import Source, stable_id
from curation.storage import Listed, open_storage


@dataclass(frozen=True)
class Listing:
    """The media below the inputs in order of place, and how many other files lie there."""

    sources: list[Source]
    num_ignored: int


def list_inputs(config: Config) -> Listing:
    """List the configured inputs.

    A container that can't be listed to its end is a source itself, of kind `container` and failed, beside
    the sources that were found in it.

    Raises:
        ConfigError: an input is missing, holds no media, or is the output of a run.
    """
    sources: dict[str, Source] = {}
    num_ignored = 0
    index = ListingIndex(open_storage(config.general.output))
    for root in config.general.input:
        folder, num_skipped = _folder(root)
        used: set[str] = set()
        unread = [key for key in folder.items if reader_of(key) is None]
        found_any = False
        for item in folder.items.values():
            contents = index.contents(folder, item)
            used |= contents.used
            num_ignored += contents.num_ignored
            for source in (*contents.sources, *_problem(folder, item, contents)):
                known = sources.get(source.uri)
                carried = {**known.carried, **source.carried} if known else source.carried
                sources[source.uri] = replace(source, carried=carried)
                found_any = True
        if not found_any:
            raise ConfigError(f"input {root}: {_nothing_found(folder.items)}")
        num_ignored += num_skipped + len(set(unread) - used)
    return Listing(sorted(sources.values(), key=_order), num_ignored)


def _problem(folder: Folder, item: Listed, contents: Contents) -> Iterator[Source]:
    """A container that something is wrong with, as a source."""
    reader = reader_of(item.key)
    if contents.error is None or reader is None:
        return
    uri = Place(reader.scheme, folder.path(item.key)).uri
    yield Source(
        source_id=stable_id(uri),
        uri=uri,
        kind="container",
        size_bytes=item.size_bytes,
        etag=item.etag,
        error_type="ProbeError",
        error=contents.error,
    )


def _order(source: Source) -> tuple[str, int]:
    """By file; within a container in the order of its contents, in which they are read best."""
    place = place_of(source.uri)
    if not place.part:
        return source.uri, -1
    return Place(place.scheme, place.path).uri, position_of(source)


def _folder(root: str) -> tuple[Folder, int]:
    """An input, and how many of its files belong to the outputs of runs."""
    storage = open_storage(root)
    items = {item.key: item for item in storage.list("")}
    outputs = _outputs(items)
    if "" in outputs:
        raise ConfigError(f"input {root}: that is the output of a run")
    inside = tuple(f"{output}/" for output in outputs)
    kept = {key: item for key, item in items.items() if not key.startswith(inside)}
    return Folder(storage, root.rstrip("/"), kept), len(items) - len(kept)


def _outputs(keys: Collection[str]) -> list[str]:
    """The folders that hold a run.json and the sources that it tells about."""
    folders = {posixpath.dirname(key) for key in keys if posixpath.basename(key) == "run.json"}
    with_sources = {posixpath.dirname(posixpath.dirname(key)) for key in keys if _is_unit_of_sources(key)}
    return sorted(folders & with_sources)


def _is_unit_of_sources(key: str) -> bool:
    folder, name = posixpath.split(key)
    return posixpath.basename(folder) == "sources" and name.startswith("unit-")


def _nothing_found(keys: Collection[str]) -> str:
    if keys:
        return f"none of its {len(keys)} files is an image or a video, or holds any"
    return "there is no such folder, or nothing is in it"
