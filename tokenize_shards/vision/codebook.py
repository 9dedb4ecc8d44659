"""How much of the codebook a set of token grids uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.errors import TokenizeError
from curation.tokenize_shards.vision.tokenizer import CODEBOOK_SIZE


@dataclass(frozen=True)
class CodebookUse:
    """Use of the 32,768 codes.

    Attributes:
        num_codes: Codes counted.
        used_fraction: Share of the codebook that occurs at all, 0..1.
        entropy_bits: Of the distribution of codes, 0..15.
        perplexity: 2 to the entropy: as many codes used evenly would say as much, 1..32,768.
    """

    num_codes: int
    used_fraction: float
    entropy_bits: float
    perplexity: float


class CodeCounts:
    """How often each code of the codebook occurs."""

    def __init__(self) -> None:
        self._counts = np.zeros(CODEBOOK_SIZE, np.int64)

    def add(self, codes: NDArray[np.uint16]) -> None:
        """Count codes of any shape.

        Raises:
            TokenizeError: a code is beyond the codebook.
        """
        found = np.bincount(codes.reshape(-1), minlength=CODEBOOK_SIZE)
        if len(found) > CODEBOOK_SIZE:
            raise TokenizeError(f"code {len(found) - 1} is beyond the codebook")
        self._counts += found

    def use(self) -> CodebookUse:
        """The use of the codebook; without any code, none of it."""
        total = int(self._counts.sum())
        shares = self._counts[self._counts > 0] / max(total, 1)
        entropy_bits = float(-(shares * np.log2(shares)).sum()) + 0.0
        return CodebookUse(total, len(shares) / CODEBOOK_SIZE, entropy_bits, 2.0**entropy_bits)


def codebook_use(grids: Iterable[bytes]) -> CodebookUse:
    """Use by grids of little-endian uint16 codes.

    Raises:
        TokenizeError: a code is beyond the codebook.
    """
    counts = CodeCounts()
    for codes in grids:
        counts.add(np.frombuffer(codes, "<u2"))
    return counts.use()
