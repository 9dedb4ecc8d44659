"""Use of the codebook, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from curation.errors import TokenizeError
from curation.tokenize_shards.vision.codebook import codebook_use


def grid(*codes: int) -> bytes:
    return np.array(codes, "<u2").tobytes()


def test_even_use() -> None:
    use = codebook_use([grid(1, 2, 3), grid(32_767)])
    # Four codes used evenly: log2(4) = 2 bits.
    assert (use.num_codes, use.used_fraction) == (4, 4 / 32_768)
    assert (use.entropy_bits, use.perplexity) == (pytest.approx(2), pytest.approx(4))


def test_uneven_use() -> None:
    # Half, a quarter, a quarter: 1/2 * 1 + 2 * 1/4 * 2 = 1.5 bits.
    assert codebook_use([grid(5, 5, 6, 7)]).entropy_bits == pytest.approx(1.5)


def test_one_code_says_nothing() -> None:
    use = codebook_use([grid(9, 9, 9)])
    assert (use.entropy_bits, use.perplexity) == (0, 1)


def test_whole_codebook() -> None:
    use = codebook_use([grid(*range(32_768))])
    assert (use.used_fraction, use.entropy_bits) == (1, pytest.approx(15))


def test_no_code() -> None:
    assert (codebook_use([]).num_codes, codebook_use([]).used_fraction) == (0, 0)


def test_code_beyond_is_refused() -> None:
    with pytest.raises(TokenizeError, match="code 40000 is beyond"):
        codebook_use([grid(1, 40_000)])
