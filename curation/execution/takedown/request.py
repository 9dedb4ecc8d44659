"""What somebody asks to retract, held against what an output knows.

    found = find_asked(storage, ["s3://raw/a.jpg", "s3://raw/0001.tar"])
    found.missing       # what is nowhere, and what was probably meant

A URI stands for a file in all its versions, for a part of a container, or for a container with all that is
in it; the id of a source stands for its URI.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from curation.ingest.locator import Locator, plain_uri
from curation.ingest.sources import container_reader
from curation.ingest.tombstones import container_of
from curation.ledger import Ledger
from curation.ledger.present import PRESENT, listed_uris, match_names
from curation.records import stable_id
from curation.storage import Storage

_CONTAINER = r"^(?P<container>(?:tar|parquet|lines)://[^#]*)#"
_MAX_COMPARED = 20_000
"""Names that one is compared with, letter by letter, to guess what was meant."""
_NUM_NEAR = 3


@dataclass
class AskedSource:
    """One thing that is to go, by the plain URI that its tombstone is of.

    Attributes:
        uri: As sources of it are called, or would be.
        source_ids, content_hashes: Of the sources that it stands for.
        is_known: Whether the ledger, the last listing or the shards know it.
    """

    uri: str
    source_ids: set[str] = field(default_factory=set)
    content_hashes: set[str] = field(default_factory=set)
    is_known: bool = False


@dataclass
class Asked:
    """All that is asked for.

    Attributes:
        targets: Plain URI -> the target. A container has one for itself, and its members are of it.
        named: What was typed -> the plain URI of its target.
        near: What was typed and is not known -> names that are like it.
        same_bytes: URIs of other sources with the same bytes.
    """

    targets: dict[str, AskedSource] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    near: dict[str, list[str]] = field(default_factory=dict)
    same_bytes: list[str] = field(default_factory=list)

    def target_of(self, uri: str) -> AskedSource | None:
        """The target that a source's URI belongs to."""
        found = self.targets.get(plain_uri(uri))
        container = container_of(uri)
        return found or (None if container is None else self.targets.get(plain_uri(container)))

    def meet(self, uri: str, source_id: str | None = None, content_hash: str | None = None) -> bool:
        """Whether something that was met is asked for; it is then known."""
        target = self.target_of(uri)
        if target is None:
            return False
        target.is_known = True
        target.source_ids.update([source_id] if source_id else [])
        target.content_hashes.update([content_hash] if content_hash else [])
        return True

    @property
    def missing(self) -> list[str]:
        """What was typed and is nowhere."""
        return [text for text, uri in self.named.items() if not self.targets[uri].is_known]


def find_asked(storage: Storage, texts: Sequence[str], *, copies: bool = False) -> Asked:
    """Look for what is asked for in the ledger and in the last listing; shards are looked through later.

    With `copies`, sources of the same bytes are asked for, too.
    """
    known = Ledger(storage).sources_table(("source_id", "uri", "content_hash"))
    asked = Asked()
    ids = _uris_of(known, texts)
    for text in texts:
        uri = target_uri(ids.get(text, text))
        asked.named[text] = uri
        asked.targets.setdefault(uri, AskedSource(uri))
    _meet_sources(asked, known)
    same = _same_bytes(asked, known)
    if copies:
        for uri in same:
            asked.targets.setdefault(plain_uri(uri), AskedSource(plain_uri(uri)))
        _meet_sources(asked, known)
    else:
        asked.same_bytes = same
    listed = listed_uris(storage)
    for uri in _matching(asked, pa.chunked_array([listed], pa.string())):
        asked.meet(uri)
    for target in asked.targets.values():
        target.is_known |= storage.find(listing_key(target.uri)) is not None
    asked.near = _near(asked.missing, [*known["uri"].to_pylist(), *listed])
    return asked


def listing_key(container: str) -> str:
    """Where the listing of a container is, if it is one."""
    return f"listing/{stable_id(container)}.parquet"


def is_listing(key: str) -> bool:
    """Whether an object below `listing/` is that of a container."""
    return key.endswith(".parquet") and key != PRESENT


def target_uri(text: str) -> str:
    """The plain URI that is meant: of a file that holds media, the container's."""
    uri = plain_uri(text)
    has_scheme = uri.startswith(("tar://", "parquet://", "lines://"))
    reader = None if has_scheme or not uri else container_reader(uri.rpartition("/")[2])
    return uri if reader is None else Locator(reader.scheme, uri).uri


def _uris_of(known: pa.Table, texts: Sequence[str]) -> Mapping[str, str]:
    """Id of a source -> its URI, of those texts that are ids."""
    found = known.filter(pc.is_in(known["source_id"], value_set=pa.array(texts, pa.string())))
    return dict(zip(found["source_id"].to_pylist(), found["uri"].to_pylist(), strict=True))


def _meet_sources(asked: Asked, known: pa.Table) -> None:
    mine = known.filter(
        pc.is_in(known["uri"], value_set=pa.array(_matching(asked, known["uri"]), pa.string()))
    )
    for row in mine.to_pylist():
        asked.meet(row["uri"], row["source_id"], row["content_hash"])


def _matching(asked: Asked, uris: pa.ChunkedArray) -> list[str]:
    """The URIs of a column that belong to a target, each once."""
    wanted = pa.array(list(asked.targets), pa.string())
    names = match_names(uris)
    containers = pc.struct_field(pc.extract_regex(names, _CONTAINER), "container")
    is_mine = pc.or_(pc.is_in(names, value_set=wanted), pc.is_in(containers, value_set=wanted))
    found: list[str] = pc.unique(uris.combine_chunks().filter(is_mine)).to_pylist()
    return found


def _same_bytes(asked: Asked, known: pa.Table) -> list[str]:
    """URIs of other sources with the bytes of one that is asked for."""
    hashes = {digest for target in asked.targets.values() for digest in target.content_hashes}
    mine = known.filter(pc.is_in(known["content_hash"], value_set=pa.array(sorted(hashes), pa.string())))
    return sorted({uri for uri in mine["uri"].to_pylist() if asked.target_of(uri) is None})


def _near(missing: Iterable[str], known: Sequence[str]) -> dict[str, list[str]]:
    """For each text the names that are like it: of the same file first."""
    names = list(dict.fromkeys(known))
    found = {}
    for text in missing:
        last = text.rpartition("/")[2].rpartition("#")[2]
        same = [uri for uri in names if last and uri.endswith((f"/{last}", f"#{last}"))]
        same = same or difflib.get_close_matches(text, names[:_MAX_COMPARED], _NUM_NEAR, 0.6)
        found[text] = same[:_NUM_NEAR]
    return found
