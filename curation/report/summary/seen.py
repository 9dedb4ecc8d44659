"""Which ids have been seen: ten bytes each, in parts that merge."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.records import ID_LENGTH, stable_id

_DIGITS = b"0123456789abcdef"
_VALUES = np.full(256, 255, np.uint8)
_VALUES[np.frombuffer(_DIGITS, np.uint8)] = np.arange(16)
"""Character -> value of the hex digit, 255 for any other."""


class SeenIds:
    """Collects ids and tells which came twice."""

    def __init__(self) -> None:
        self._heads: list[NDArray[np.uint64]] = []
        self._tails: list[NDArray[np.uint16]] = []

    def add(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """Take in ids [N], texts."""
        packed = _packed(ids)
        self._heads.append(packed[:, :8].copy().view(">u8")[:, 0].astype(np.uint64))
        self._tails.append(packed[:, 8:].copy().view(">u2")[:, 0].astype(np.uint16))

    def merge(self, other: SeenIds) -> None:
        """Take in what another one has seen."""
        self._heads += other._heads
        self._tails += other._tails

    def repeated(self) -> list[str]:
        """The ids that came more than once."""
        if not self._heads:
            return []
        heads = np.sort(np.concatenate(self._heads))
        if not (heads[1:] == heads[:-1]).any():  # as a rule, and a fifth of the time
            return []
        heads, tails = np.concatenate(self._heads), np.concatenate(self._tails)
        order = np.lexsort((tails, heads))
        heads, tails = heads[order], tails[order]
        twice = (heads[1:] == heads[:-1]) & (tails[1:] == tails[:-1])
        return [
            f"{head:016x}{tail:04x}" for head, tail in zip(heads[1:][twice], tails[1:][twice], strict=True)
        ]


def _packed(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.uint8]:
    """Two hex digits a byte [N, 10]. What is no id of this project is hashed to one."""
    joined = "".join(ids.to_pylist()).encode()
    found = _nibbles(joined)
    if len(joined) != len(ids) * ID_LENGTH or found.max(initial=0) > 15:
        found = _nibbles("".join(stable_id(name) for name in ids.to_pylist()).encode())
    pairs = found.reshape(len(ids), ID_LENGTH // 2, 2)
    return np.asarray(pairs[..., 0] << 4 | pairs[..., 1], np.uint8)


def _nibbles(text: bytes) -> NDArray[np.uint8]:
    return _VALUES[np.frombuffer(text, np.uint8)]
