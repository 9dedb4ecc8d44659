"""The inputs as they are found: every file below them once, by its name alone."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.config import Config
from curation.errors import ConfigError
from curation.ingest.containers.index import ListingIndex
from curation.ingest.locator import Locator, printable
from curation.ingest.sources import container_reader, is_read, may_be_container
from curation.ingest.suffixes import kind_of_suffix
from curation.ingest.tombstones import read_tombstones
from curation.records import Source, stable_id
from curation.storage import open_storage
from curation.storage.hub.place import is_on_hub, pin_latest
from curation.storage.surveys.records import Survey
from curation.storage.surveys.survey import survey

_SOURCES = r"sources/(unit-|compact/)"


@dataclass(frozen=True)
class FoundFolder:
    """An input as it was found, before any file in it was opened.

    Attributes:
        root: As the configuration spells it, without a slash at its end.
        files: Its files without the outputs of runs that lie in it, sorted by `key`. Columns: those of the
            survey; `name`, the key as it is printed; `suffix` in lower case; `kind`, null for what is no
            medium; `is_container`.
        survey: Everything that was met.
        outputs: The beginnings of keys in the outputs of runs.
    """

    root: str
    files: pa.Table
    survey: Survey
    outputs: tuple[str, ...]

    def path(self, key: str) -> str:
        """The path of a file below this folder."""
        return f"{self.root}/{key}"

    def some_keys(self, number: int) -> list[str]:
        """Keys of up to so many of its files, the first and the last among them."""
        places = np.unique(np.linspace(0, len(self.files) - 1, min(number, len(self.files))).astype(np.int64))
        return [os.fsdecode(key) for key in self.files["key"].take(pa.array(places)).to_pylist()]

    def containers(self) -> Iterator[tuple[str, Source]]:
        """The containers: key, and the container as a source."""
        rows = self.files.filter(self.files["is_container"]).select(("key", "size_bytes", "etag"))
        for row in rows.to_pylist():
            key = os.fsdecode(row["key"])
            reader = container_reader(key)
            uri = Locator(reader.scheme if reader else "", self.path(key)).uri
            yield (
                key,
                Source(
                    source_id=stable_id(uri),
                    uri=uri,
                    kind="container",
                    size_bytes=row["size_bytes"],
                    etag=row["etag"],
                ),
            )

    def nothing_found(self) -> str:
        """What is wrong with an input in which there is nothing to read."""
        if self.files.num_rows:
            return f"none of its {self.files.num_rows} files is an image or a video, or holds any"
        return "there is no such folder, or nothing is in it"


def input_roots(config: Config) -> list[str]:
    """The inputs as the URIs of their sources begin."""
    return [_spelled(root) for root in config.general.input]


def find_inputs(config: Config) -> list[FoundFolder]:
    """The files below the configured inputs, each once; of data sets on the Hub those of the latest commit.

    Raises:
        ConfigError: an input is missing, has no file that could hold media, or is the output of a run or is
            to become it.
        StorageError: a folder can't be read.
    """
    roots = input_roots(config)
    _check_apart(roots, config.general.output)
    pin_latest(root for root in roots if is_on_hub(root))
    found = [_folder(root, one) for root, one in zip(roots, survey(roots, is_read), strict=True)]
    for root, folder in zip(config.general.input, found, strict=True):
        if not folder.survey.repeated and not _has_any(folder.files):
            raise ConfigError(f"input {root}: {folder.nothing_found()}")
    return found


def unlisted_containers(
    config: Config, found: Sequence[FoundFolder], *, retry_failed: bool = False
) -> list[Source]:
    """Containers that are new or changed since they were listed; those that failed too, if asked for.

    None that was retracted is among them.
    """
    output = open_storage(config.general.output)
    index, tombstones = ListingIndex(output), read_tombstones(output)
    return [
        container
        for folder in found
        for _, container in folder.containers()
        if not tombstones.covers(container.uri) and index.lacks(container, retry_failed=retry_failed)
    ]


def _check_apart(roots: Sequence[str], output: str) -> None:
    """An output amid the media of an input would be taken for all of it by the next run."""
    for root in roots:
        if _real(root) == _real(_spelled(output)):
            raise ConfigError(f"input {root}: that is the output, too; write to a folder of its own")


def _real(root: str) -> str:
    return root if "://" in root else os.path.realpath(root)


def _has_any(files: pa.Table) -> bool:
    """Whether there is a medium or a container."""
    return bool(files["kind"].null_count < files.num_rows or pc.any(files["is_container"]).as_py())


def _spelled(root: str) -> str:
    """An input as its sources are called: `in` for `./in`, `in/` and `in/.`, `s3://b/in` for `s3://b//in/`."""
    scheme, separator, path = root.partition("://")
    if not separator:
        return str(PurePosixPath(re.sub("/+", "/", root)))
    # The first part is a bucket, if there is one.
    return f"{scheme}{separator}{'/'.join(part for part in path.split('/') if part not in ('', '.'))}"


def _folder(root: str, found: Survey) -> FoundFolder:
    """An input without the outputs of runs that lie in it."""
    names = _names(found.files["key"].combine_chunks())
    outputs = _outputs(names)
    if "" in outputs:
        raise ConfigError(f"input {root}: that is the output of a run")
    files = found.files.append_column("name", names)
    for output in outputs:
        files = files.filter(pc.invert(pc.starts_with(files["name"], f"{output}/")))
    return FoundFolder(
        root.rstrip("/"),
        _with_kinds(files.combine_chunks()),
        found,
        tuple(f"{output}/" for output in outputs),
    )


def _names(keys: pa.Array) -> pa.Array:
    """Keys as they are printed."""
    try:
        return keys.cast(pa.string())
    except pa.ArrowInvalid:  # one of them is not UTF-8
        return pa.array([printable(os.fsdecode(key)) for key in keys.to_pylist()], pa.string())


def _with_kinds(files: pa.Table) -> pa.Table:
    """Files with what their suffixes say of them."""
    names = files["name"].combine_chunks()
    ends = pc.struct_field(pc.extract_regex(names, r"(?P<end>\.[^./]*)$"), "end")
    suffixes = _each(ends.fill_null("").dictionary_encode(), str.lower, pa.string()).dictionary_encode()
    candidates = pc.indices_nonzero(_each(suffixes, may_be_container, pa.bool_()))
    holding = [container_reader(name) is not None for name in names.take(candidates).to_pylist()]
    is_container = np.zeros(len(names), bool)
    is_container[candidates] = holding
    return (
        files.append_column("suffix", suffixes.cast(pa.string()))
        .append_column("kind", _each(suffixes, kind_of_suffix, pa.string()))
        .append_column("is_container", pa.array(is_container))
    )


def _each(values: pa.DictionaryArray, of: Callable[[str], Any], kind: pa.DataType) -> pa.Array:
    """A function of every value, called once for each that there is."""
    return pa.array(map(of, values.dictionary.to_pylist()), kind).take(values.indices)


def _outputs(names: pa.Array) -> list[str]:
    """The folders that hold a run.json and the sources that it tells about."""
    runs = names.filter(pc.match_substring_regex(names, r"(^|/)run\.json$")).to_pylist()
    if not runs:
        return []
    # A unit of sources, or many merged.
    units = names.filter(pc.match_substring_regex(names, rf"(^|/){_SOURCES}[^/]*$")).to_pylist()
    with_sources = {re.sub(rf"/?{_SOURCES}[^/]*$", "", unit) for unit in units}
    return sorted({posixpath.dirname(run) for run in runs} & with_sources)
