"""Which columns of a Parquet file hold media, which can be carried along, and which are left out.

Media are, in this order:

1. columns that Hugging Face `datasets` declares as Image or Video, and structs of `bytes` and `path`;
2. columns of plain bytes.

In either group a column counts if it is declared, named like media (`jpg`, `image`, `video`, ...), or if
what stands in it begins like a picture or a video. A column may also hold a list of pictures per row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.ingest.containers.named import names_media, naming_columns
from curation.ingest.containers.parquet.cells import (
    ROWS,
    UNREADABLE,
    cells,
    column_cells,
    is_bytes,
    is_kept,
    is_list,
    plain,
)
from curation.media.magic import HEAD_BYTES, media_kind
from curation.records import SourceKind

MAX_COLUMNS = 1000
"""Columns that are carried along; those behind are left out by name."""
_VIDEO_NAMES = frozenset({"video", "videos", "mp4", "webm", "mov", "mkv", "avi", "video_bytes"})
_MEDIA_NAMES = _VIDEO_NAMES | {
    "image", "images", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "media", "bytes",
    "image_bytes",
}  # fmt: skip
_OWN_SHARD = frozenset({"sample_id", "codes", "grid_t", "grid_h", "grid_w"})
"""Columns by which a training shard of this project is known; its bytes are token grids."""
_DECLARED: dict[str, SourceKind] = {"Image": "image", "Video": "video"}
_SAYS_NOTHING = ("Value", "None")
"""Declared types that may be bytes of anything."""
_NUM_LOOKED_AT = 8
_NUM_GROUPS_LOOKED_AT = 4
_HELD_BYTES = 64 << 20
_OPEN_ROWS = 16
"""Rows whose media are held at the same time, if they are not too large for that."""


@dataclass(frozen=True, slots=True)
class MediaColumn:
    """A column of media.

    Attributes:
        is_struct: Of structs with `bytes`, not of bytes.
        is_list: Of lists of either.
        path: The column of strings that says what each is called: a leaf of the struct, or another column.
    """

    name: str
    kind: SourceKind
    is_struct: bool = False
    is_list: bool = False
    path: str | None = None


@dataclass(frozen=True)
class Layout:
    """What the columns of a file are.

    Attributes:
        media: Columns of media.
        named: Columns of paths, where no column holds media.
        metadata: Columns that are carried along.
        left_out: Other columns, and why.
    """

    media: tuple[MediaColumn, ...] = ()
    named: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


def layout_of(parquet: pq.ParquetFile) -> Layout:
    """The layout of a file; without media and names of files it is of no use here."""
    schema = parquet.schema_arrow
    if set(schema.names) >= _OWN_SHARD:
        return Layout()
    media = _media_columns(parquet)
    named = () if media else _named_columns(parquet)
    metadata: list[str] = []
    left_out: dict[str, str] = {}
    for one in schema:
        if one.name in named or any(one.name == column.name for column in media):
            continue
        if not is_kept(one.type):
            left_out[one.name] = f"{plain(one.type)}"[:60]
        elif len(metadata) == MAX_COLUMNS:
            left_out[one.name] = f"one of more than {MAX_COLUMNS}"
        else:
            metadata.append(one.name)
    return Layout(tuple(_with_paths(parquet, media)), named, tuple(metadata), left_out)


def chunks_of(parquet: pq.ParquetFile, group: int, name: str) -> list[pq.ColumnChunkMetaData]:
    """The leaves of a column in a row group, as the footer tells of them."""
    metadata = parquet.metadata.row_group(group)
    chunks = [metadata.column(number) for number in range(metadata.num_columns)]
    return [chunk for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{name}.")]


def num_bytes_of(parquet: pq.ParquetFile, group: int, name: str) -> int:
    """What a column takes in a row group once it is decompressed, by the footer."""
    return sum(chunk.total_uncompressed_size for chunk in chunks_of(parquet, group, name))


def dictionary_leaves(metadata: pq.FileMetaData) -> list[str]:
    """Leaves of bytes that repeat values by reference, so that reading them need not multiply them."""
    if not metadata.num_row_groups:
        return []
    group = metadata.row_group(0)
    chunks = (group.column(number) for number in range(group.num_columns))
    return [
        chunk.path_in_schema
        for chunk in chunks
        if chunk.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in name for name in chunk.encodings)
    ]


def media_rows(parquet: pq.ParquetFile, group: int, column: MediaColumn) -> int:
    """How many rows of a media column are read at a time, so that what is held stays bounded."""
    num_rows: int = parquet.metadata.row_group(group).num_rows
    per_row = max(1, num_bytes_of(parquet, group, column.name) // max(1, num_rows))
    return max(1, min(_OPEN_ROWS, _HELD_BYTES // per_row))


def _media_columns(parquet: pq.ParquetFile) -> list[MediaColumn]:
    declared = _declared(parquet.schema_arrow)
    structs: list[MediaColumn] = []
    others: list[MediaColumn] = []
    for one in parquet.schema_arrow:
        column = _shape(one)
        if column is None:
            continue
        kind = declared[one.name] if one.name in declared else _kind(parquet, column)
        if kind is not None:
            group = structs if column.is_struct or one.name in declared else others
            group.append(replace(column, kind=kind))
    return structs or others


def _shape(one: pa.Field) -> MediaColumn | None:
    """What could be a column of media, by its type."""
    kind = plain(one.type)
    in_list = is_list(kind)
    kind = plain(kind.value_type) if in_list else kind
    guess: SourceKind = "video" if one.name.lower() in _VIDEO_NAMES else "image"
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        has_path = kind.get_field_index("path") >= 0
        if is_bytes(kind.field("bytes").type):
            return MediaColumn(one.name, guess, True, in_list, "path" if has_path else None)
        return None
    return MediaColumn(one.name, guess, False, in_list) if is_bytes(kind) else None


def _declared(schema: pa.Schema) -> dict[str, SourceKind | None]:
    """The columns that Hugging Face `datasets` declares: images, videos, or something else (None)."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        types = {name: _feature(feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: _DECLARED.get(kind) for name, kind in types.items() if kind not in _SAYS_NOTHING}


def _feature(feature: object) -> str:
    """The type of a feature, or of those in a list."""
    if isinstance(feature, list) and feature:
        return _feature(feature[0])
    if not isinstance(feature, dict):
        return "Value"
    name = feature.get("_type")
    return _feature(feature.get("feature")) if name in ("List", "LargeList", "Sequence") else str(name)


def _kind(parquet: pq.ParquetFile, column: MediaColumn) -> SourceKind | None:
    """What a column that nothing declares holds, by its first values, else by its name."""
    kinds = [media_kind(head) for head in _heads(parquet, column)]
    known = [kind for kind in kinds if kind is not None]
    if known and 2 * len(known) >= len(kinds):
        return "video" if 2 * known.count("video") > len(known) else "image"
    by_name = column.name.lower() in _MEDIA_NAMES
    return column.kind if by_name or (not kinds and _names_media(parquet, column)) else None


def _names_media(parquet: pq.ParquetFile, column: MediaColumn) -> bool:
    """Whether the structs of a column hold no bytes, but paths of media."""
    if not column.is_struct or column.path is None or not parquet.num_row_groups:
        return False
    found = (path for paths in paths_of(parquet, 0, column) for path in paths)
    return names_media(next(filter(None, found), None))


def paths_of(parquet: pq.ParquetFile, group: int, column: MediaColumn) -> Iterator[list[str | None]]:
    """What a column of structs calls its media, row by row; a row without a value has none."""
    leaf = next(
        (
            chunk.path_in_schema
            for chunk in chunks_of(parquet, group, column.name)
            if chunk.path_in_schema.endswith(".path")
        ),
        column.name,
    )
    for batch in parquet.iter_batches(ROWS, row_groups=[group], columns=[leaf], use_threads=False):
        array = batch.column(0)
        lengths = pc.list_value_length(array).to_pylist() if column.is_list else [1] * len(array)
        flat = pc.list_flatten(array) if column.is_list else array
        found = iter(cells(pc.struct_field(flat, "path")))
        for length in lengths:
            yield [
                path if isinstance(path, str) else None
                for _, path in zip(range(length or 0), found, strict=False)
            ]


def _heads(parquet: pq.ParquetFile, column: MediaColumn) -> list[bytes]:
    """How the first values of a column begin; nothing where none can be read."""
    heads: list[bytes] = []
    for group in range(min(parquet.num_row_groups, _NUM_GROUPS_LOOKED_AT)):
        try:
            batches = parquet.iter_batches(
                media_rows(parquet, group, column),
                row_groups=[group],
                columns=[column.name],
                use_threads=False,
            )
            for number, batch in enumerate(batches):
                heads += _beginnings(contents(batch.column(0), column))
                if len(heads) >= _NUM_LOOKED_AT or number == _NUM_LOOKED_AT:
                    return heads[:_NUM_LOOKED_AT]
        except UNREADABLE:
            continue
    return heads


def contents(array: pa.Array, column: MediaColumn) -> pa.Array:
    """The bytes in the values of a column, without the lists around them."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if column.is_list:
        array = pc.list_flatten(array)
    return pc.struct_field(array, "bytes") if column.is_struct else array


def _beginnings(array: pa.Array) -> Iterator[bytes]:
    for scalar in array[:_NUM_LOOKED_AT]:
        value = scalar.value if isinstance(scalar, pa.DictionaryScalar) else scalar
        buffer = value.as_buffer() if value is not None and value.is_valid else None
        if buffer is not None:
            yield buffer.slice(0, min(HEAD_BYTES, buffer.size)).to_pybytes()


def _named_columns(parquet: pq.ParquetFile) -> tuple[str, ...]:
    """The columns of paths to files."""
    texts = [one.name for one in parquet.schema_arrow if is_kept(one.type)]
    return naming_columns(texts, lambda name: _first(parquet, name))


def _first(parquet: pq.ParquetFile, name: str) -> object:
    """The first value of a column that is not null."""
    for group in range(min(parquet.num_row_groups, _NUM_GROUPS_LOOKED_AT)):
        for _, value in zip(range(1000), column_cells(parquet, group, name, 64), strict=False):
            if value:
                return value
    return None


def _with_paths(parquet: pq.ParquetFile, media: list[MediaColumn]) -> list[MediaColumn]:
    """A single column of plain bytes is what the column of paths beside it calls it."""
    if len(media) != 1 or media[0].is_struct or media[0].is_list:
        return media
    named = _named_columns(parquet)
    (column,) = media
    return [MediaColumn(column.name, column.kind, path=named[0])] if named else media
