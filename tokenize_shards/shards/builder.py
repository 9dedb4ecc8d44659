"""Makes rows of shards out of kept samples and their codes, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import LedgerError, TokenizeError
from curation.tokenize_shards.documents.document import DocumentConfig, Shape, document_length, draw
from curation.tokenize_shards.documents.text import FIRST_VISUAL, VOCABULARY_SIZE, TextTokenizer

ROW_BYTES = 256
"""What a row takes beside its codes and texts, about."""


def estimated_bytes(samples: pa.Table) -> NDArray[np.int64]:
    """Bytes of each sample in a shard: codes hardly compress, text ids take about as much as the text."""
    num_codes = np.prod([_integers(samples[name]) for name in ("grid_t", "grid_h", "grid_w")], axis=0)
    found: NDArray[np.int64] = 2 * num_codes + 2 * _integers(pc.binary_length(samples["caption"])) + ROW_BYTES
    return found


class GroupCodes:
    """The codes of a group's samples as they lie in the ledger's memory, unit by unit, and never as one."""

    def __init__(self, parts: Iterable[pa.Table], wanted: pa.Array) -> None:
        """Take the rows of the samples `wanted` from tables of `sample_id` and `codes`.

        Raises:
            LedgerError: a sample has none.
        """
        ids, self._parts = [wanted[:0]], []
        for part in parts:
            mine = pc.is_in(part["sample_id"], value_set=wanted)
            part = (part if pc.all(mine).as_py() else part.filter(mine)).combine_chunks()
            if part.num_rows:
                ids.append(part["sample_id"].combine_chunks())
                self._parts.append(_Bytes(part["codes"].combine_chunks()))
        starts = np.cumsum([0, *map(len, ids)])[1:]
        places = pc.index_in(wanted, value_set=pa.concat_arrays(ids))
        if places.null_count:
            lacking = wanted.filter(pc.is_null(places))[0].as_py()
            raise LedgerError(f"sample {lacking} is kept and has no codes")
        found = places.to_numpy().astype(np.int64)
        self._part_of: NDArray[np.int64] = np.searchsorted(starts, found, "right") - 1
        self._row_of: NDArray[np.int64] = found - starts[self._part_of]

    def take(self, start: int, stop: int) -> pa.Array:
        """The codes of the samples from `start` to `stop`, in the order of `wanted`: copied once."""
        pieces = [
            self._parts[part][row]
            for part, row in zip(
                self._part_of[start:stop].tolist(), self._row_of[start:stop].tolist(), strict=True
            )
        ]
        offsets = np.cumsum([0, *map(len, pieces)])
        data = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.binary(), len(pieces), buffers)


class _Bytes:
    """Views of the items of a binary array; of null, an empty one."""

    def __init__(self, array: pa.Array) -> None:
        _, offsets, data = array.buffers()
        self._offsets = np.frombuffer(offsets, np.int32)[
            array.offset : array.offset + len(array) + 1
        ].tolist()
        self._data = np.frombuffer(data or b"", np.uint8)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return self._data[self._offsets[row] : self._offsets[row + 1]]


class RowBuilder:
    """Builds the rows of one split."""

    def __init__(
        self, config: DocumentConfig, seed: int, split: str, schema: pa.Schema, tokenizer: TextTokenizer
    ) -> None:
        """`schema` is that of the shards."""
        self._config, self._seed, self._split, self._schema = config, seed, split, schema
        self._tokenizer = tokenizer
        self._metas: dict[tuple[Any, ...], tuple[str, list[int]]] = {}

    def rows(self, samples: pa.Table, codes: pa.Array) -> pa.Table:
        """Rows of the samples, which have all columns of a shard that follow from the ledger.

        Raises:
            TokenizeError: a sample's codes are no grid of the codebook's.
        """
        frames, rows, cols = (_integers(samples[name]) for name in ("grid_t", "grid_h", "grid_w"))
        shape = (frames, rows, cols)
        _check(codes, shape, samples["sample_id"])
        ids: list[str] = samples["sample_id"].to_pylist()
        drawn = [draw(sample_id, self._seed, self._config) for sample_id in ids]
        captions: list[str] = samples["caption"].to_pylist()
        said = [text if item.has_caption else "" for text, item in zip(captions, drawn, strict=True)]
        text_ids = pa.array(self._tokenizer.encode_all(said), pa.list_(pa.int32()))
        metas = self._metas_of(samples)
        meta_ids = pa.array([ids for _, ids in metas], pa.list_(pa.int32()))
        num_text_ids, num_meta_ids = (
            _integers(pc.list_value_length(column)) for column in (text_ids, meta_ids)
        )
        lengths = document_length(num_text_ids, num_meta_ids, shape)
        found: Mapping[str, Any] = {
            "split": pa.repeat(pa.scalar(self._split), len(ids)),
            "meta": pa.array([meta for meta, _ in metas], pa.string()),
            "codes": codes,
            "task": pa.array([item.task for item in drawn], pa.string()),
            "text_ids": text_ids,
            "meta_ids": meta_ids,
            "num_tokens": pa.array(lengths.astype(np.int32)),
        }
        measured = set(samples.column_names)
        columns = [
            found[field.name]
            if field.name in found
            else samples[field.name].cast(field.type)
            if field.name in measured
            else pa.nulls(len(ids), field.type)
            for field in self._schema
        ]
        return pa.table(columns, schema=self._schema)

    def _metas_of(self, samples: pa.Table) -> list[tuple[str, list[int]]]:
        """The text that describes each grid, and its ids; there are few."""
        names = ("kind", "grid_t", "grid_h", "grid_w", "fps")
        keys = list(zip(*(samples[name].to_pylist() for name in names), strict=True))
        for key in set(keys) - self._metas.keys():
            kind, *shape, fps = key
            meta = self._config.meta(kind, _shape(shape), fps)
            self._metas[key] = meta, self._tokenizer.encode(meta)
        return [self._metas[key] for key in keys]


def code_values(codes: pa.Array) -> NDArray[np.uint16]:
    """All codes of a binary column, one grid after the other."""
    _, offsets, data = codes.buffers()
    bounds = np.frombuffer(offsets, np.int32)[codes.offset : codes.offset + len(codes) + 1]
    values = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]].view("<u2")
    return values.astype(np.uint16, copy=False)


def _shape(sizes: list[int]) -> Shape:
    frames, rows, columns = sizes
    return frames, rows, columns


def _check(codes: pa.Array, shape: tuple[NDArray[np.int64], ...], sample_id: pa.ChunkedArray) -> None:
    """Make sure that codes fill their grids, and are of the codebook."""
    lengths = _integers(pc.binary_length(codes))
    wrong = np.flatnonzero(lengths != 2 * np.prod(shape, axis=0))
    if len(wrong):
        place = int(wrong[0])
        frames, rows, columns = (int(sizes[place]) for sizes in shape)
        raise TokenizeError(
            f"{sample_id[place].as_py()}: {lengths[place]} bytes are no grid of {frames} x {rows} x {columns}"
        )
    values = code_values(codes)
    if len(values) and values.max() >= VOCABULARY_SIZE - FIRST_VISUAL:
        at = int(np.searchsorted(np.cumsum(lengths // 2), int(values.argmax()), "right"))
        raise TokenizeError(f"{sample_id[at].as_py()}: code {values.max()} is beyond the codebook")


def _integers(column: Any) -> NDArray[np.int64]:
    found: NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return found
