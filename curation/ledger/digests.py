"""Digests of many texts, by which equal ones are found in memory that does not grow with their length.

digests = Digests()
digests.add(pa.array(["a", "b"]))
digests.add(pa.array(["b", "c"]))
digests.groups()        # [0, 2, 2, 1]: equal texts have the same number
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

NUM_BYTES = 10
"""Of a digest: as many as an id of this project has. Of ten million texts, two that differ have the same one
with a probability of 4e-11."""


class Digests:
    """Ten bytes of each text, in the order in which they were added."""

    def __init__(self) -> None:
        self._heads: list[NDArray[np.uint64]] = []
        self._tails: list[NDArray[np.uint16]] = []

    def __len__(self) -> int:
        return sum(map(len, self._heads))

    def add(self, texts: pa.Array) -> None:
        """Take in texts [N]."""
        packed = b"".join(
            [blake2b(text, digest_size=NUM_BYTES).digest() for text in texts.cast(pa.binary()).to_pylist()]
        )
        found = np.frombuffer(packed, np.dtype([("head", "<u8"), ("tail", "<u2")]))
        self._heads.append(found["head"].copy())
        self._tails.append(found["tail"].copy())

    def groups(self) -> NDArray[np.int32]:
        """A number per text [N]; equal texts have the same one, from 0 on."""
        if not self._heads:
            return np.zeros(0, np.int32)
        heads, tails = np.concatenate(self._heads), np.concatenate(self._tails)
        order = np.argsort(heads)
        is_new_head, is_new_tail = _changes(heads[order]), _changes(tails[order])
        if (is_new_tail & ~is_new_head).any():  # two digests that share their heads
            order = np.lexsort((tails, heads))
            is_new_head, is_new_tail = _changes(heads[order]), _changes(tails[order])
        begins = np.zeros(len(order), np.int32)
        begins[1:] = is_new_head | is_new_tail
        numbers = np.empty(len(order), np.int32)
        numbers[order] = np.cumsum(begins, dtype=np.int32)
        return numbers


def _changes(values: NDArray[np.unsignedinteger]) -> NDArray[np.bool_]:
    """Of all but the first, whether it is another one than that before: bool [N - 1]."""
    return np.asarray(values[1:] != values[:-1])
