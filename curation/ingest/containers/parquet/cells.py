"""The values of metadata columns, as a source can carry them. A bad value is an `Unkept` in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.ingest.locator import printable
from curation.ingest.metadata import MAX_SIDECAR_BYTES, Unkept

ROWS = 8192
"""Rows of a column that are read at a time."""
UNREADABLE = (pa.ArrowException, OSError, ValueError, LookupError, MemoryError)
"""What pyarrow raises about damaged files."""
_OUT_OF_RANGE = "<value out of range"
_IS_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_IS_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_IS_LIST = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_IS_NUMBER = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
_IS_WRITTEN = (
    pa.types.is_timestamp,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_duration,
    pa.types.is_decimal,
)
"""Types whose values are kept as text."""


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves, where they are stored as a dictionary or under another name."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of a type are bytes of any length."""
    return any(is_one(plain(kind)) for is_one in _IS_BYTES)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of a type are lists."""
    return any(is_one(plain(kind)) for is_one in _IS_LIST)


def is_kept(kind: pa.DataType) -> bool:
    """Whether values of a type can be metadata: numbers, texts, dates and the like, lists of texts."""
    kind = plain(kind)
    if is_list(kind):
        return any(is_one(plain(kind.value_type)) for is_one in _IS_TEXT)
    return pa.types.is_null(kind) or any(is_one(kind) for is_one in (*_IS_TEXT, *_IS_NUMBER, *_IS_WRITTEN))


def column_cells(parquet: pq.ParquetFile, group: int, name: str, rows: int = ROWS) -> Iterator[Any]:
    """The values of a column in a row group, as many as the group has rows.

    What can't be read is `Unkept` in all rows that are left.
    """
    left = parquet.metadata.row_group(group).num_rows
    unread: Unkept | None = None
    try:
        for batch in parquet.iter_batches(rows, row_groups=[group], columns=[name], use_threads=False):
            left -= batch.num_rows
            yield from cells(batch.column(0))
    except UNREADABLE as error:
        unread = Unkept(f"can't be read: {first_line(error)}")
    yield from repeat(unread, left)


def cells(array: pa.Array) -> Sequence[Any]:
    """The values of an array: None, a value that can be metadata, or `Unkept`."""
    if isinstance(array, pa.ExtensionArray):
        return cells(array.storage)
    kind = array.type
    if pa.types.is_dictionary(kind):
        values = cells(array.dictionary)  # each once, however many rows repeat it
        return [None if index is None else values[index] for index in array.indices.to_pylist()]
    if is_list(kind):
        return _lists(array)
    if pa.types.is_float16(kind):
        array = array.cast(pa.float32())
    if pa.types.is_null(kind) or any(is_one(kind) for is_one in _IS_NUMBER):
        return array.to_pylist()  # type: ignore[no-any-return]
    if any(is_one(kind) for is_one in _IS_WRITTEN):
        return _written(array)
    return _texts(array)


def _texts(array: pa.Array) -> list[Any]:
    if isinstance(array, pa.StringArray | pa.LargeStringArray):
        longest = pc.max(pc.binary_length(array)).as_py() or 0
        if longest <= MAX_SIDECAR_BYTES:
            try:
                return array.to_pylist()  # type: ignore[no-any-return]
            except UnicodeDecodeError:
                pass
    return [_text(scalar.as_buffer()) for scalar in array]


def _text(value: pa.Buffer | None) -> str | Unkept | None:
    if value is None:
        return None
    if value.size > MAX_SIDECAR_BYTES:
        return Unkept(f"{value.size} bytes are too many for one value")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        return Unkept("it is not UTF-8")


def _written(array: pa.Array) -> list[Any]:
    """Values as text, by Arrow: exact, whatever unit they have; an unknown time zone becomes UTC."""
    kind = array.type
    suffix = f" {kind.unit}" if pa.types.is_duration(kind) else ""
    try:
        texts = pc.cast(array, pa.string()).to_pylist()
    except pa.ArrowException:
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise
        texts, suffix = pc.cast(array.cast(pa.timestamp(kind.unit)), pa.string()).to_pylist(), "Z"
    return [text if text is None else _in_range(text + suffix) for text in texts]


def _in_range(text: str) -> str | Unkept:
    """Arrow says in words which value is beyond the years that it can write."""
    return Unkept(text.strip("<>")) if text.startswith(_OUT_OF_RANGE) else text


def _lists(array: pa.Array) -> list[Any]:
    """Lists of texts, without what is null in them; an empty list is as good as none."""
    values = iter(cells(pc.list_flatten(array)))
    lists = []
    for length in pc.list_value_length(array).to_pylist():
        texts = [text for _, text in zip(range(length or 0), values, strict=False) if text is not None]
        bad = next((text for text in texts if isinstance(text, Unkept)), None)
        lists.append(bad or texts or None)
    return lists


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return printable((str(error).splitlines() or [type(error).__name__])[0])
