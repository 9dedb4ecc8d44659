"""Ten bytes that stand for a text: equal texts are found in memory that does not grow with their length.

digests = Digests()
digests.add(hashed(pa.array(["a", "b"])))
digests.add(hashed(pa.array(["b", "c"])))
digests.groups()        # [0, 2, 2, 1]: equal texts have the same number
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.records import ID_LENGTH, stable_id

NUM_BYTES = 10
"""Of a digest: as many as an id of this project has. Of ten million texts, two that differ have the same one
with a probability of 4e-11."""
_DIGITS = b"0123456789abcdef"
_VALUES = np.full(256, 255, np.uint8)
_VALUES[np.frombuffer(_DIGITS, np.uint8)] = np.arange(16)
"""Character -> value of the hex digit, 255 for any other."""


def hashed(texts: pa.Array | pa.ChunkedArray) -> NDArray[np.uint8]:
    """Digests of texts [N]: uint8 [N, 10]."""
    digests = [blake2b(text, digest_size=NUM_BYTES).digest() for text in texts.cast(pa.binary()).to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, NUM_BYTES)


def unpacked(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.uint8]:
    """The bytes that ids [N] spell: uint8 [N, 10]. What is no id of this project is made one first."""
    names = ids.to_pylist()
    joined = "".join(names).encode()
    found = _nibbles(joined)
    if len(joined) != len(names) * ID_LENGTH or found.max(initial=0) > 15:
        found = _nibbles("".join(map(stable_id, names)).encode())
    pairs = found.reshape(len(names), NUM_BYTES, 2)
    return np.asarray(pairs[..., 0] << 4 | pairs[..., 1], np.uint8)


class Digests:
    """Digests in the order in which they were added, in parts that merge."""

    def __init__(self) -> None:
        self._heads: list[NDArray[np.uint64]] = []
        self._tails: list[NDArray[np.uint16]] = []

    def __len__(self) -> int:
        return sum(map(len, self._heads))

    def add(self, digests: NDArray[np.uint8]) -> None:
        """Take in digests [N, 10]."""
        self._heads.append(digests[:, :8].copy().view(">u8")[:, 0].astype(np.uint64))
        self._tails.append(digests[:, 8:].copy().view(">u2")[:, 0].astype(np.uint16))

    def merge(self, other: Digests) -> None:
        """Take in what another one has, behind one's own."""
        self._heads += other._heads
        self._tails += other._tails

    def groups(self) -> NDArray[np.int32]:
        """A number per digest [N]; equal ones have the same, from 0 on."""
        order, is_new = self._sorted()
        numbers = np.empty(len(order), np.int32)
        numbers[order] = np.cumsum(is_new, dtype=np.int32) - 1
        return numbers

    def repeated(self) -> list[str]:
        """In hex digits, the digests that came before: one that came n times is there n - 1 times."""
        heads = np.sort(np.concatenate([*self._heads, np.zeros(0, np.uint64)]))
        if _changes(heads).all():  # as a rule, and found in a fifth of the time
            return []
        order, is_new = self._sorted()
        twice = order[~is_new]
        heads, tails = np.concatenate(self._heads)[twice], np.concatenate(self._tails)[twice]
        return [f"{head:016x}{tail:04x}" for head, tail in zip(heads.tolist(), tails.tolist(), strict=True)]

    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """An order [N] in which equal digests stand together; of its places, which begin one: bool [N]."""
        if not len(self):
            return np.zeros(0, np.int64), np.zeros(0, bool)
        heads, tails = np.concatenate(self._heads), np.concatenate(self._tails)
        order = np.argsort(heads)
        is_new_head, is_new_tail = _changes(heads[order]), _changes(tails[order])
        if (is_new_tail & ~is_new_head).any():  # two digests that share their heads
            order = np.lexsort((tails, heads))
            is_new_head, is_new_tail = _changes(heads[order]), _changes(tails[order])
        return order, np.concatenate([[True], is_new_head | is_new_tail])


def _nibbles(text: bytes) -> NDArray[np.uint8]:
    return _VALUES[np.frombuffer(text, np.uint8)]


def _changes(values: NDArray[np.unsignedinteger]) -> NDArray[np.bool_]:
    """Of all but the first, whether it is another one than that before: bool [N - 1]."""
    return np.asarray(values[1:] != values[:-1])
