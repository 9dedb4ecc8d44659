"""Takes the samples of some sources out of finished shards, without the configuration that made them.

    found = find_folders(storage, is_retracted)     # what is concerned, in every folder below shards/
    for folder in found:
        rewrite_folder(storage, folder, source_ids)

Only files with such samples are written anew, under their names, each row group without them; of the others
not a byte changes. A file of which nothing is left stays, empty, so that the others keep their numbers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.errors import LedgerError
from curation.ingest.leftovers import some_names
from curation.records import ID_LENGTH, stable_id
from curation.report.cards.header import card_text, split_card
from curation.storage import Storage
from curation.tokenize_shards.shards.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    digest_ids,
    is_whole,
    key_in,
    read_manifest,
    subtract_digests,
    write_manifest,
)
from curation.tokenize_shards.shards.shardfile import open_shard
from curation.tokenize_shards.shards.task import SampleFile
from curation.tokenize_shards.shards.verify import is_shard_name

_FOLDER = re.compile(r"shards/[^/]+(?=/)")
_KNOWN_BY = ("source_id", "source_uri", "sample_id")
_HEX = re.compile(rb"[0-9a-f]{%d,}" % ID_LENGTH)
_ARROW_SCHEMA = b"ARROW:schema"
"""Metadata of a Parquet file, by which Arrow finds its own types again."""
_READ_BYTES = 1 << 22
CARD, CROISSANT = "README.md", "croissant.json"


@dataclass(frozen=True, kw_only=True)
class ConcernedFolder:
    """A folder of shards in which samples are that have to go. It says what is to do, whatever was done.

    Attributes:
        folder: Relative to the output.
        files: Names of the files that hold such samples.
        num_samples: How many these are.
        source_ids: Of which sources they are.
        selection, samples: What the manifest says afterwards; None where there is no manifest.
    """

    folder: str
    files: tuple[str, ...]
    num_samples: int
    source_ids: tuple[str, ...]
    selection: str | None
    samples: str | None


def find_folders(
    storage: Storage, is_retracted: Callable[[pa.Table], NDArray[np.bool_]]
) -> tuple[list[ConcernedFolder], list[str]]:
    """The folders below `shards/` that are concerned, and the ids of the samples.

    Args:
        storage: The output.
        is_retracted: For rows with `source_id` and `source_uri`, which have to go.

    Raises:
        LedgerError: a file or a manifest can't be read.
    """
    folders: dict[str, list[str]] = {}
    for item in storage.list("shards"):
        place = _FOLDER.match(item.key)
        name = PurePosixPath(item.key).name
        if place and item.key == f"{place[0]}/{name}" and is_shard_name(name):
            folders.setdefault(place[0], []).append(name)
    found, sample_ids = [], []
    for folder, names in folders.items():
        concerned, ids = _concerned(storage, folder, names, is_retracted)
        if concerned is not None:
            found.append(concerned)
            sample_ids += ids
    return found, sample_ids


def _concerned(
    storage: Storage, folder: str, names: Sequence[str], is_retracted: Callable[[pa.Table], NDArray[np.bool_]]
) -> tuple[ConcernedFolder | None, list[str]]:
    files: list[str] = []
    ids: list[str] = []
    source_ids: set[str] = set()
    for name in names:
        with _opened(storage, key_in(folder, name)) as file:
            if not set(_KNOWN_BY) <= set(file.schema_arrow.names):
                continue
            rows = file.read(list(_KNOWN_BY), use_threads=False)
        gone = rows.filter(pa.array(is_retracted(rows)))
        if gone.num_rows:
            files.append(name)
            ids += gone["sample_id"].to_pylist()
            source_ids.update(gone["source_id"].to_pylist())
    if not files:
        return None, []
    manifest = read_manifest(storage, folder)
    selection = samples = None
    if manifest is not None:
        _check_whole(storage, folder, files, manifest)
        gone_digest = digest_ids(ids)
        # Never that of the samples before: a run to which the sources came back would take these for its own.
        selection = stable_id("retracted", manifest.selection, gone_digest)
        samples = subtract_digests(manifest.samples, gone_digest)
    concerned = ConcernedFolder(
        folder=folder,
        files=tuple(files),
        num_samples=len(ids),
        source_ids=tuple(sorted(source_ids)),
        selection=selection,
        samples=samples,
    )
    return concerned, ids


def _check_whole(storage: Storage, folder: str, files: Sequence[str], manifest: Manifest) -> None:
    """Make sure that files which are to be written anew are what was written before.

    They get new digests in the manifest, by which nobody would find damage in them any more.

    Raises:
        LedgerError: one is not.
    """
    named = {shard.name: shard for shard in manifest.shards}
    wrong = [name for name in files if name in named and not is_whole(storage, folder, named[name])]
    if wrong:
        raise LedgerError(
            f"{storage.root}/{folder}: {some_names(wrong)} {'is' if len(wrong) == 1 else 'are'} damaged; "
            "written anew nobody could tell. Remove what is named here; `curation run` then writes all shards"
        )


def rewrite_folder(storage: Storage, concerned: ConcernedFolder, source_ids: Collection[str]) -> None:
    """Write the concerned files of a folder without these sources, then its manifest and its card.

    It may be called again after it was interrupted, and leaves the same.
    """
    folder = concerned.folder
    written = {name: _rewritten(storage, folder, name, source_ids) for name in concerned.files}
    manifest = read_manifest(storage, folder)
    if manifest is None or concerned.selection is None or concerned.samples is None:
        return
    shards = tuple(written.get(shard.name, shard) for shard in manifest.shards)
    manifest = replace(manifest, selection=concerned.selection, samples=concerned.samples, shards=shards)
    write_manifest(storage, folder, manifest)
    # What it states of files and numbers is no longer so; the next run that writes it does so whole.
    storage.delete(key_in(folder, CROISSANT))
    _correct_card(storage, folder, manifest.num_samples, manifest.num_tokens)


def _rewritten(storage: Storage, folder: str, name: str, source_ids: Collection[str]) -> Shard:
    gone = pa.array(sorted(source_ids), pa.string())
    with _opened(storage, key_in(folder, name)) as file:
        schema = _written_schema(file)
        written = SampleFile(name, name.partition("-")[0], schema)
        for index in range(file.num_row_groups):
            rows = file.read_row_group(index, use_threads=False).cast(schema)
            rows = rows.filter(pc.invert(pc.is_in(rows["source_id"], value_set=gone)))
            if rows.num_rows:
                written.add(rows.combine_chunks(), begins_row_group=index > 0)
    return written.write(storage, folder)


def _written_schema(file: pq.ParquetFile) -> pa.Schema:
    """The schema that a file was written with: as Parquet reads it, lists call their items otherwise."""
    kept = (file.metadata.metadata or {}).get(_ARROW_SCHEMA)
    if kept is None:
        return file.schema_arrow.remove_metadata()
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept))).remove_metadata()


def _correct_card(storage: Storage, folder: str, num_samples: int, num_tokens: int) -> None:
    """Leave of a card its header alone, for tools, and what is certain.

    The rest tells of a run that had the sources. `curation retract -c CONFIG` and the next run write it anew.
    """
    key = key_in(folder, CARD)
    text = (storage.read(key) or b"").decode(errors="replace")
    if not text:
        return
    header, _ = split_card(text)
    # `load_dataset` refuses rows that are not as many as the header says.
    header.pop("dataset_info", None)
    said = (
        f"# {PurePosixPath(folder).name}\n\nSources were retracted from these shards. What is left are "
        f"{num_samples} samples of {num_tokens} tokens, as {MANIFEST} says. `curation run` writes this card "
        "anew.\n"
    )
    storage.write(key, (card_text(header, said) if header else f"\n{said}").encode())


def files_with(storage: Storage, ids: Collection[str], passed_over: tuple[str, ...] = ()) -> list[str]:
    """The files of an export that hold some of these samples or sources, as their names or contents tell.

    Keys that begin with one of `passed_over` are not looked at.

    Raises:
        StorageError: the folder can't be read.
    """
    wanted = frozenset(ids)
    if not wanted:
        return []
    keys = [item.key for item in storage.list("") if not item.key.startswith(passed_over)]
    return [key for key in keys if _holds(storage, key, wanted)]


def _holds(storage: Storage, key: str, wanted: frozenset[str]) -> bool:
    if _ids_in(key.encode()) & wanted:
        return True
    if key.endswith(".parquet"):
        with _opened(storage, key) as file:
            names = [name for name in ("sample_id", "sample_ids") if name in file.schema_arrow.names]
            if names:
                ids = file.read(names[:1], use_threads=False).column(0)
                flat = pc.list_flatten(ids) if pa.types.is_list(ids.type) else ids
                return not wanted.isdisjoint(flat.to_pylist())
    with storage.open(key) as opened:
        before = b""
        while part := opened.read(_READ_BYTES):
            if _ids_in(before + part) & wanted:
                return True
            before = part[-ID_LENGTH:]
    return False


def _ids_in(data: bytes) -> set[str]:
    """Everything in some bytes that could be the id of a sample."""
    return {
        run[0][start : start + ID_LENGTH].decode()
        for run in _HEX.finditer(data)
        for start in range(len(run[0]) - ID_LENGTH + 1)
    }


@contextmanager
def _opened(storage: Storage, key: str) -> Iterator[pq.ParquetFile]:
    """An open shard.

    Raises:
        LedgerError: it can't be read.
    """
    try:
        with storage.open(key) as file:
            yield open_shard(file)
    except (pa.ArrowException, OSError) as error:
        raise LedgerError(
            f"{storage.root}/{key} can't be read, so nobody knows what is in it: {error}; remove it first"
        ) from error
