"""Brings finished shards to the Hub: what `verify` finds sound, with card and manifest.

    done = publish("output/shards/name", "hf://datasets/org/name", print, is_private=True)

Publishing again sends only what differs. A shard is fetched from where it lies and sent, one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import yaml

from curation.errors import ConfigError, StorageError
from curation.ledger.absent import absent_beside
from curation.report.summary.funnel import UNTRAINED
from curation.storage import Storage, open_storage
from curation.storage.hub.place import HubPlace, place_of
from curation.storage.hub.upload import Upload, open_target
from curation.tokenize_shards.shards.manifest import MANIFEST, Manifest, read_manifest
from curation.tokenize_shards.shards.verify import COMPANIONS, is_shard_name, verify

CARD = "README.md"
_HEADER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Terms:
    """How shards are published.

    Attributes:
        is_private: Whether a data set that is created is private; one that is there must be.
        revision: Branch, which is made of the main branch if there is none.
        message: What the commit says.
        allow_stand_ins: Whether shards of untrained models may go out.
    """

    is_private: bool = False
    revision: str | None = None
    message: str | None = None
    allow_stand_ins: bool = False


@dataclass(frozen=True)
class Published:
    """What was done; `problems` are those of damaged shards, and then it was nothing."""

    problems: tuple[str, ...] = ()
    url: str = ""
    is_new: bool = False
    num_files: int = 0
    num_bytes: int = 0
    num_same: int = 0


def publish(folder: str, url: str, say: Callable[[str], None], **terms: Any) -> Published:
    """Bring the shards in `folder` to a data set on the Hub; `say` takes warnings and what is being done.

    `terms` are the fields of `Terms`.

    Raises:
        ConfigError: `url` names no data set; or the shards are not finished, have no card, or are of
            untrained models, and nobody allowed this.
        MissingDependencyError: there is no token.
        StorageError: the Hub or the shards can't be reached; or a shard was changed meanwhile.
    """
    chosen = Terms(**terms)
    place = _target_of(url, chosen)
    storage = open_storage(folder)
    manifest = read_manifest(storage, "")
    if manifest is None:
        raise ConfigError(f"{folder}: there is no {MANIFEST}: the shards are not finished, or these are none")
    _check_card(storage, chosen, say)
    found = verify(storage, "", absent_beside(folder))
    if found.problems:
        return Published(tuple(found.problems))
    target = open_target(place, is_private=chosen.is_private)
    message = chosen.message or f"{manifest.num_samples} samples in {len(manifest.shards)} shards"
    upload = Upload(target, message)
    _send_shards(storage, manifest, upload, say)
    for name in sorted(COMPANIONS):
        data = storage.read(name)
        if data is not None:
            upload.add_text(name, data)
    commit = upload.commit(is_shard_name)
    return Published((), commit, target.is_new, upload.num_files, upload.num_bytes, upload.num_same)


def _target_of(url: str, terms: Terms) -> HubPlace:
    place = place_of(url)
    if place.prefix:
        raise ConfigError(f"{url}: shards fill a data set of their own; leave /{place.prefix} away")
    if terms.revision and place.revision:
        raise ConfigError(f"{url} names a revision, and so does --revision; leave one of them away")
    return replace(place, revision=terms.revision or place.revision)


def _check_card(storage: Storage, terms: Terms, say: Callable[[str], None]) -> None:
    card = (storage.read(CARD) or b"").decode(errors="replace")
    header = _HEADER.match(card)
    if header is None:
        raise ConfigError(
            f"{storage.root} has no {CARD} with a header in YAML; `curation run` writes it anew"
        )
    if UNTRAINED in card and not terms.allow_stand_ins:
        raise ConfigError(
            f"{storage.root} was made by {UNTRAINED}: its captions or tokens mean nothing; --allow-stand-ins "
            "publishes it all the same"
        )
    said = yaml.safe_load(header[1])
    if "unknown" in (said.get("license"), said.get("license_name")):
        say("the license is unknown: set `license` in the configuration and run again to name it on the card")


def _send_shards(storage: Storage, manifest: Manifest, upload: Upload, say: Callable[[str], None]) -> None:
    for number, shard in enumerate(manifest.shards, 1):
        if upload.has(shard.name, shard.sha256):
            continue
        with storage.local_path(shard.name) as path:
            sent = upload.add_file(shard.name, path)
        if sent != shard.sha256:
            raise StorageError(f"{storage.root}/{shard.name} was changed while it was published; try again")
        say(f"uploaded {shard.name} ({number} of {len(manifest.shards)}, {shard.size_bytes} bytes)")
