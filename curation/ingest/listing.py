"""Lists the inputs: every file goes to the reader that takes it; what none takes is counted."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from curation.config import Config
from curation.errors import ConfigError
from curation.ingest.containers.index import ListingIndex, as_source
from curation.ingest.containers.reader import Contents, Folder
from curation.ingest.leftovers import NO_SUFFIX, Leftovers
from curation.ingest.locator import Locator, locator_of, position_of, printable
from curation.ingest.metadata import PROBLEM, merged
from curation.ingest.sources import container_reader, is_read
from curation.ingest.suffixes import suffix_of
from curation.records import Source, stable_id
from curation.storage import Listed, open_storage
from curation.storage.survey import Survey, survey


@dataclass(frozen=True)
class Listing:
    """The media below the inputs in order of place, and what else lies there."""

    sources: list[Source]
    leftovers: Leftovers = field(default_factory=Leftovers)

    @property
    def num_ignored(self) -> int:
        """Files, and parts of files, that are neither media nor say anything about media."""
        return self.leftovers.kinds.total()


@dataclass(frozen=True)
class FoundFolder:
    """An input as it was found, before any file in it was opened.

    Attributes:
        folder: Its files, without the outputs of runs that lie in it.
        survey: Everything that was met.
        outputs: The beginnings of keys in the outputs of runs.
    """

    folder: Folder
    survey: Survey
    outputs: tuple[str, ...]


def find_inputs(config: Config) -> list[FoundFolder]:
    """The files below the configured inputs, each once.

    Raises:
        ConfigError: an input is missing, has no file that could hold media, or is the output of a run.
        StorageError: a folder can't be read.
    """
    roots = [_spelled(root) for root in config.general.input]
    found = [_folder(root, one) for root, one in zip(roots, survey(roots, is_read), strict=True)]
    for root, folder in zip(config.general.input, found, strict=True):
        if not folder.survey.repeated and not any(map(is_read, folder.folder.items)):
            raise ConfigError(f"input {root}: {_nothing_found(folder.folder.items)}")
    return found


def unlisted_containers(
    config: Config, found: Sequence[FoundFolder], *, retry_failed: bool = False
) -> list[Source]:
    """Containers that are new or changed since they were listed; those that failed too, if asked for."""
    index = ListingIndex(open_storage(config.general.output))
    containers = [
        as_source(one.folder, item)
        for one in found
        for item in one.folder.items.values()
        if container_reader(item.key) is not None
    ]
    return [container for container in containers if index.lacks(container, retry_failed=retry_failed)]


def list_inputs(config: Config, found: Sequence[FoundFolder] | None = None) -> Listing:
    """List the configured inputs; `found` saves looking for their files again.

    A run has its workers list what `unlisted_containers` names before; what the index still does not
    know is listed here.

    A container that can't be listed to its end is a source itself, of kind `container` and failed, beside
    the sources that were found in it.

    Raises:
        ConfigError: an input is missing, holds no media, or is the output of a run.
        StorageError: a folder can't be read.
    """
    sources: dict[str, Source] = {}
    leftovers = Leftovers()
    index = ListingIndex(open_storage(config.general.output))
    for root, one in zip(config.general.input, found or find_inputs(config), strict=True):
        folder = one.folder
        leftovers.add_survey(folder, one.survey, one.outputs)
        used: set[str] = set()
        found_any = bool(one.survey.repeated)
        for item in folder.items.values():
            contents = index.contents(folder, item)
            used |= contents.used
            leftovers.add_parts(item.key, contents)
            for source in (*contents.sources, *_problem(folder, item, contents)):
                known = sources.get(source.uri)
                metadata = merged(known.metadata, source.metadata) if known else source.metadata
                sources[source.uri] = replace(source, metadata=metadata)
                found_any = True
        if not found_any:
            raise ConfigError(f"input {root}: {_nothing_found(folder.items)}")
        unread = (key for key in folder.items if not is_read(key) and key not in used)
        leftovers.kinds.update(suffix_of(key) or NO_SUFFIX for key in unread)
    leftovers.num_bad_metadata = sum(PROBLEM in source.metadata for source in sources.values())
    return Listing(sorted(sources.values(), key=_order), leftovers)


def _spelled(root: str) -> str:
    """An input as its sources are called: `in` for `./in`, `in/` and `in/.`."""
    scheme, separator, path = root.rpartition("://")
    return f"{scheme}{separator}{PurePosixPath(re.sub('/+', '/', path))}"


def _problem(folder: Folder, item: Listed, contents: Contents) -> Iterator[Source]:
    """A file that something is wrong with, as a source."""
    if contents.error is None:
        return
    reader = container_reader(item.key)
    uri = printable(Locator(reader.scheme if reader else "", folder.path(item.key)).uri)
    yield Source(
        source_id=stable_id(uri),
        uri=uri,
        kind="container",
        size_bytes=item.size_bytes,
        etag=item.etag,
        error_type=contents.error_type,
        error=contents.error,
    )


def _order(source: Source) -> tuple[str, int]:
    """By file; within a container in the order of its contents, in which they are read best."""
    locator = locator_of(source.uri)
    if not locator.part:
        return source.uri, -1
    return Locator(locator.scheme, locator.path).uri, position_of(source)


def _folder(root: str, found: Survey) -> FoundFolder:
    """An input without the outputs of runs that lie in it."""
    outputs = _outputs([item.key for item in found.files])
    if "" in outputs:
        raise ConfigError(f"input {root}: that is the output of a run")
    inside = tuple(f"{output}/" for output in outputs)
    items = {item.key: item for item in found.files if not item.key.startswith(inside)}
    return FoundFolder(Folder(open_storage(root), root.rstrip("/"), items), found, inside)


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
