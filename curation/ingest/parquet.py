"""Parquet files: each row's embedded picture or video is a source, with its other columns.

Which columns hold media follows from the schema, in this order:

1. columns that Hugging Face `datasets` declares as Image or Video, and structs of `bytes` and `path`;
2. all columns of plain bytes;
3. the first column of paths (`PATH_COLUMNS`): each row then stands for the file it names, relative to
   the Parquet file or to the input, and adds its other columns to what that file carries.

Listing reads the footer and the columns that are neither. A file of web addresses, such as LAION's
metadata, holds no media.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.errors import ProbeError
from curation.ingest.carried import scalars
from curation.ingest.files import source_of_file
from curation.ingest.place import Place, check_unchanged, part_etag, place_of, position_of, version_of
from curation.ingest.reader import Contents, Folder, unnamed_file
from curation.ingest.suffixes import kind_of
from curation.records import Carried, Source, SourceKind, stable_id
from curation.storage import Listed

PATH_COLUMNS = (
    "file_name", "filename", "file_path", "filepath", "path", "local_path", "image_path", "video_path",
    "image", "video", "file", "url", "URL", "image_url", "video_url",
)  # fmt: skip
"""Columns that may name files, the first that does counts."""
_VIDEO_COLUMNS = frozenset({"video", "mp4", "webm", "mov", "mkv", "avi"})
_OWN_SHARD = frozenset({"sample_id", "codes", "grid_t", "grid_h", "grid_w"})
"""Columns by which a training shard of this project is known; its bytes are token grids."""
_LIST_ROWS = 8192
_OPEN_ROWS = 16
"""Rows whose pictures are held at the same time."""


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of media: of bytes, or of structs with `bytes` and, if `has_path`, `path`."""

    name: str
    kind: SourceKind
    is_struct: bool = False
    has_path: bool = False


class ParquetReader:
    """Reads Parquet files that embed media, or that name files."""

    scheme = "parquet"

    def __init__(self) -> None:
        # Units go through a file row by row, so the one that was opened last is kept open.
        self._cursor: _Cursor | None = None

    def takes(self, key: str) -> bool:
        return key.lower().endswith(".parquet")

    def list(self, folder: Folder, item: Listed) -> Contents:
        try:
            with folder.storage.open(item.key) as file:
                parquet = pq.ParquetFile(file, pre_buffer=False)
                columns = _media_columns(parquet.schema_arrow)
                if columns:
                    return _embedded(parquet, folder, item, columns)
                return _named(parquet, folder, item)
        except (pa.ArrowException, OSError, ValueError) as error:
            return Contents(error=f"damaged: {_first_line(error)}")

    @contextmanager
    def opened(self, source: Source) -> Iterator[Path]:
        place = place_of(source.uri)
        storage, key = place.open_storage()
        check_unchanged(source, storage, key)
        row, _, name = place.part.partition("/")
        data = self._cursor_of(source).media(position_of(source), name)
        if data is None:
            raise ProbeError(f"row {row} holds no media and names no file that is here")
        with unnamed_file() as (copy, path):
            copy.write(data)
            copy.flush()
            yield path

    def _cursor_of(self, source: Source) -> _Cursor:
        version = version_of(source)
        if self._cursor is None or self._cursor.version != version:
            if self._cursor is not None:
                self._cursor.close()
            self._cursor = _Cursor(version)
        return self._cursor


def _media_columns(schema: pa.Schema) -> list[_Column]:
    if set(schema.names) >= _OWN_SHARD:
        return []
    declared = _declared(schema)
    structs: list[_Column] = []
    plain: list[_Column] = []
    for field in schema:
        kind: SourceKind = "video" if field.name.lower() in _VIDEO_COLUMNS else "image"
        kind = declared.get(field.name, kind)
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            if _is_bytes(field.type.field("bytes").type):
                has_path = field.type.get_field_index("path") >= 0
                structs.append(_Column(field.name, kind, is_struct=True, has_path=has_path))
        elif _is_bytes(field.type):
            (structs if field.name in declared else plain).append(_Column(field.name, kind))
    return structs or plain


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _declared(schema: pa.Schema) -> dict[str, SourceKind]:
    """The columns that Hugging Face `datasets` says are pictures or videos."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: "image" if feature["_type"] == "Image" else "video"
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") in ("Image", "Video")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _embedded(parquet: pq.ParquetFile, folder: Folder, item: Listed, columns: list[_Column]) -> Contents:
    sources = []
    for row, values in enumerate(_other_columns(parquet, columns)):
        for column in columns:
            own = values.get(column.name) or {}
            name = own.get("path") or ""
            part = str(row) if len(columns) == 1 else f"{row}/{column.name}"
            kind = kind_of(name) or column.kind
            carried = scalars({key: value for key, value in values.items() if key != column.name})
            sources.append(_source(folder, item, part, row, kind, carried))
    return Contents(tuple(sources))


def _source(
    folder: Folder, item: Listed, part: str, row: int, kind: SourceKind, carried: dict[str, Carried]
) -> Source:
    uri = Place("parquet", folder.path(item.key), part).uri
    return Source(
        source_id=stable_id(uri),
        uri=uri,
        kind=kind,
        size_bytes=0,
        etag=part_etag(item.etag, row),
        carried=carried,
    )


def _other_columns(parquet: pq.ParquetFile, columns: list[_Column]) -> Iterator[dict[str, Any]]:
    """Every row without the bytes; of a struct column, only its path."""
    media = {column.name for column in columns}
    wanted = [
        field.name for field in parquet.schema_arrow if field.name not in media and not _is_nested(field.type)
    ]
    wanted += [f"{column.name}.path" for column in columns if column.has_path]
    if not wanted:
        yield from ({} for _ in range(parquet.metadata.num_rows))
        return
    for batch in parquet.iter_batches(batch_size=_LIST_ROWS, columns=wanted, use_threads=False):
        yield from batch.to_pylist()


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or _is_bytes(kind))


def _named(parquet: pq.ParquetFile, folder: Folder, item: Listed) -> Contents:
    """Rows that name files."""
    name = _path_column(parquet)
    if name is None:
        return Contents(num_ignored=1)
    sources = []
    for row, values in enumerate(_other_columns(parquet, [])):
        said = values.pop(name)
        carried = scalars(values)
        target = _target(folder, item, said) if said else None
        source = source_of_file(folder, target) if target else None
        if source is None:
            sources.append(_source(folder, item, str(row), row, kind_of(said or "") or "image", carried))
        else:
            sources.append(replace(source, carried={**source.carried, **carried}))
    return Contents(tuple(sources), stands_alone=False)


def _path_column(parquet: pq.ParquetFile) -> str | None:
    schema = parquet.schema_arrow
    for name in PATH_COLUMNS:
        kind = schema.field(name).type if name in schema.names else None
        if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue
        for batch in parquet.iter_batches(batch_size=64, columns=[name], use_threads=False):
            first = next((value for value in batch.column(0).to_pylist() if value), None)
            if first is not None:
                if "://" not in first and kind_of(first) is not None:
                    return name
                break
    return None


def _target(folder: Folder, item: Listed, name: str) -> Listed | None:
    """The listed file that a row names."""
    beside = posixpath.join(posixpath.dirname(item.key), name)
    below = name.removeprefix(f"{folder.root}/")
    found = (folder.items.get(posixpath.normpath(key)) for key in (beside, below))
    return next(filter(None, found), None)


class _Cursor:
    """Reads the media of rows that are asked for in rising order, a few rows at a time."""

    def __init__(self, version: tuple[str, str]) -> None:
        """`version` is the file's URI and etag."""
        self.version = version
        storage, key = place_of(version[0]).open_storage()
        self._file = storage.open(key)
        self._parquet = pq.ParquetFile(self._file, pre_buffer=False, buffer_size=1 << 20)
        self._columns = {column.name: column for column in _media_columns(self._parquet.schema_arrow)}
        self._batches: Iterator[Any] = iter(())
        self._at = ("", -1)
        self._first_row, self._rows = 0, list[Any]()

    def close(self) -> None:
        """Let go of the file."""
        self._batches = iter(())
        self._parquet.close()
        self._file.close()

    def media(self, row: int, name: str) -> bytes | None:
        """The bytes in a row, of the column `name` where there are several; None if there are none.

        Raises:
            ProbeError: the row can't be read.
        """
        if not self._columns:
            return None
        column = self._columns[name] if name else next(iter(self._columns.values()))
        try:
            value = self._value(row, column.name)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._at = ("", -1)
            raise ProbeError(f"row {row} can't be read: {_first_line(error)}") from error
        is_struct = column.is_struct and value is not None
        data: bytes | None = value["bytes"] if is_struct else value
        return self._beside(value.get("path")) if is_struct and data is None else data

    def _value(self, row: int, name: str) -> Any:
        metadata = self._parquet.metadata
        group, first = 0, 0
        while row >= first + metadata.row_group(group).num_rows:
            first += metadata.row_group(group).num_rows
            group += 1
        if self._at != (name, group) or row < self._first_row:
            self._at, self._first_row, self._rows = (name, group), first, []
            self._batches = self._parquet.iter_batches(
                _OPEN_ROWS, row_groups=[group], columns=[name], use_threads=False
            )
        while row >= self._first_row + len(self._rows):
            self._first_row += len(self._rows)
            self._rows = next(self._batches).column(0)
        return self._rows[row - self._first_row].as_py()

    def _beside(self, path: str | None) -> bytes | None:
        """A file that a row names in place of embedding it."""
        storage, key = place_of(self.version[0]).open_storage()
        folder = posixpath.dirname(key)
        return storage.read(posixpath.join(folder, path)) if path else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
