"""The pictures of a report, kept below `report/`, so that a page can be rendered anew without media.

    pictures = read_pictures(storage)            # by sample id
    write_pictures(storage, {**pictures, sample_id: SamplePictures(...)})
    forget_pictures(storage, source_ids=[...])

They are one Parquet file, which is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from curation.errors import DamagedFileError
from curation.records import Source, stable_id
from curation.storage import Storage
from curation.storage.parquet import from_bytes, to_bytes

PICTURES = "report/pictures.parquet"
MAX_BYTES = 6_000_000
"""JPEG files of one page, all together."""
_RENDERING = 1
"""Raise it when the pictures of the same sources become others."""
_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("pictures", pa.list_(pa.binary()), nullable=False),
    ]
)


@dataclass(frozen=True)
class SamplePictures:
    """What a sample looks like.

    Attributes:
        source_id: The source of the sample.
        version: Which bytes of the source were rendered, and how.
        pictures: JPEG files; none where the source can't be decoded.
    """

    source_id: str
    version: str
    pictures: tuple[bytes, ...]


def version_of_pictures(source: Source) -> str:
    """The version of pictures that are rendered of a source as it is now."""
    return stable_id(_RENDERING, source.content_hash or source.etag)


def read_pictures(storage: Storage) -> dict[str, SamplePictures]:
    """Sample id -> its pictures; nothing where the file can't be read, since it is made again."""
    data = storage.read(PICTURES)
    if data is None:
        return {}
    try:
        rows = from_bytes(data, PICTURES).cast(_SCHEMA).to_pylist()
    except (DamagedFileError, pa.ArrowException, ValueError):
        return {}
    return {
        row["sample_id"]: SamplePictures(row["source_id"], row["version"], tuple(row["pictures"]))
        for row in rows
    }


def fitted(pictures: Mapping[str, SamplePictures], max_bytes: int = MAX_BYTES) -> dict[str, SamplePictures]:
    """`pictures` within `max_bytes`: where they are too many, the last ones lose all but one each, or all."""
    found, room = {}, max_bytes
    for sample_id, one in pictures.items():
        middle = len(one.pictures) // 2
        for some in (one.pictures, one.pictures[middle : middle + 1], ()):
            num_bytes = sum(map(len, some))
            if num_bytes <= room:
                found[sample_id] = replace(one, pictures=some)
                room -= num_bytes
                break
    return found


def write_pictures(storage: Storage, pictures: Mapping[str, SamplePictures]) -> None:
    """Keep these pictures and no others; a file that holds them already is left alone."""
    rows = [
        {
            "sample_id": sample_id,
            "source_id": found.source_id,
            "version": found.version,
            "pictures": list(found.pictures),
        }
        for sample_id, found in sorted(pictures.items())
    ]
    data, present = to_bytes(pa.Table.from_pylist(rows, schema=_SCHEMA)), storage.read(PICTURES)
    if data != present and (rows or present is not None):
        storage.write(PICTURES, data)


def forget_pictures(
    storage: Storage, *, sample_ids: Collection[str] = (), source_ids: Collection[str] = ()
) -> int:
    """Remove the pictures of these samples, and of all samples of these sources; how many samples those were.

    The file as it was is replaced: it holds nothing of them any more.
    """
    pictures = read_pictures(storage)
    samples, sources = set(sample_ids), set(source_ids)
    stays = {
        sample_id: found
        for sample_id, found in pictures.items()
        if sample_id not in samples and found.source_id not in sources
    }
    if len(stays) < len(pictures):
        write_pictures(storage, stays)
    return len(pictures) - len(stays)
