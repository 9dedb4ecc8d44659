"""How much of the codebook a set of token grids uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from curation.errors import TokenizeError
from tokenize_shards.vision.tokenizer import CODEBOOK_SIZE


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


def codebook_use(grids: Iterable[bytes]) -> CodebookUse:
    """Use by grids of little-endian uint16 codes; without any code, none of it.

    Raises:
        TokenizeError: a code is beyond the codebook.
    """
    counts = np.zeros(CODEBOOK_SIZE, np.int64)
    for codes in grids:
        found = np.bincount(np.frombuffer(codes, "<u2"), minlength=CODEBOOK_SIZE)
        if len(found) > CODEBOOK_SIZE:
            raise TokenizeError(f"code {len(found) - 1} is beyond the codebook")
        counts += found
    total = int(counts.sum())
    shares = counts[counts > 0] / max(total, 1)
    entropy_bits = float(-(shares * np.log2(shares)).sum()) + 0.0
    return CodebookUse(total, len(shares) / CODEBOOK_SIZE, entropy_bits, 2.0**entropy_bits)
