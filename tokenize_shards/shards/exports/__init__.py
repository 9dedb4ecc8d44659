"""Copies shards into the layouts that others read; what was written is read again and counted.

emu3        Emu3's fine-tuning code: a .pth per image and a JSON list per split; it knows no clips
webdataset  tar files of ID.npy (codes) and ID.json (everything else)
datasets    Parquet for `datasets.load_dataset(DIR)`, with `input_ids` and nested `codes`
packed      packs of whole documents, for `curation.tokenize_shards.shards.loader`
mds         MosaicML's streaming: a folder per split, for `StreamingDataset`
lance       a Lance data set per split
jsonl       JSON Lines, a sample a line

Beside the data lie a card (`README.md`), `export.json` with counts and the sha256 of every file, and beside
tables `croissant.json`.

    export("packed", "output/shards/name", "packs", context=2048)
"""

from __future__ import annotations

from typing import Any

from curation.config.problems import checked
from curation.errors import ConfigError, StorageError
from curation.ingest.leftovers import some_names
from curation.registry import EXPORTS
from curation.storage import Storage, full_root, open_storage
from curation.tokenize_shards.shards.exports.base import Exported, FinishedShards
from curation.tokenize_shards.shards.exports.describe import describe
from curation.tokenize_shards.shards.manifest import MANIFEST, Manifest, is_whole, read_manifest


def export(name: str, folder: str, to: str, /, **settings: Any) -> Exported:
    """Write the shards in `folder` into the empty folder `to`; `settings` are the format's own.

    Raises:
        ConfigError: there is no such format or setting, no finished shards, or something in `to` already; or
            the format can't be written to `to`.
        MissingDependencyError: the format is written by a package that is not installed.
        StorageError: what was written is not all there; or a shard is damaged, or was written anew meanwhile.
    """
    format_class = EXPORTS.load(name)
    chosen = format_class(checked(format_class.Config, name, settings))
    source, target = open_storage(folder), open_storage(to)
    manifest = read_manifest(source, "")
    if manifest is None:
        raise ConfigError(f"{folder} holds no finished shards: there is no {MANIFEST} in it")
    if manifest.context is not None:
        raise ConfigError(f"{folder} is packed; export the shards that it was made from")
    if _is_inside(target, source):
        raise ConfigError(f"{to} is inside of {folder}, where `curation verify` wants nothing but the shards")
    if target.list(""):
        raise ConfigError(f"{to} is not empty; an export goes into a folder of its own")
    _check_whole(folder, source, manifest)
    done: Exported = chosen.write(FinishedShards(folder, source, manifest), target)
    found = chosen.count(target)
    if found != done.num_samples:
        raise StorageError(f"{to} holds {found} samples, {done.num_samples} were written")
    if done.num_samples + done.left_out.total() != manifest.num_samples:
        raise StorageError(f"{folder} is not as its {MANIFEST} says; `curation verify` tells more")
    if read_manifest(source, "") != manifest:
        raise StorageError(f"{folder}: a run wrote these shards anew meanwhile; remove {to} and export again")
    describe(name, chosen, FinishedShards(folder, source, manifest), target, done)
    return done


def _is_inside(inner: Storage, outer: Storage) -> bool:
    """Whether a folder is another one or lies in it, whatever their paths look like."""
    return f"{full_root(inner)}/".startswith(f"{full_root(outer).rstrip('/')}/")


def _check_whole(folder: str, source: Storage, manifest: Manifest) -> None:
    """Make sure that the shards are what was written, before anything is made of them.

    An export is counted and gets digests of its own, so that nobody would find damage in it afterwards.
    """
    wrong = [shard.name for shard in manifest.shards if not is_whole(source, "", shard)]
    if wrong:
        raise StorageError(
            f"{folder}: {some_names(wrong)} {'is' if len(wrong) == 1 else 'are'} not as {MANIFEST} says; "
            "`curation verify` tells more"
        )
