"""CPU time of a 64 x 64 document by way of a string, as Emu3's public code does, over by arithmetic."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

import numpy as np
import tiktoken

from benchmarks.measure import cpu_ratio
from curation.tokenize_shards.documents.document import build
from curation.tokenize_shards.documents.text import PATTERN, TextTokenizer

CAPTION = "A cat sits on a red sofa beside a window, and the evening sun falls on both of them."
REPEATS = 500
VOCABULARIES = (Path("demo/qwen.tiktoken"), Path("../shared/data/text/qwen.tiktoken"))


def ratio() -> float:
    ranks = next((path for path in VOCABULARIES if path.is_file()), None)
    if ranks is None:
        raise SystemExit("there is no vocabulary; `make demo` fetches it")
    grid = np.random.default_rng(0).integers(0, 32_768, (1, 64, 64)).astype(np.uint16)
    tokenizer, public = TextTokenizer(ranks), _public_encoding(ranks)

    def by_string() -> list[int]:
        return public.encode(_public_string(grid), allowed_special="all")

    def by_arithmetic() -> list[int]:
        for _ in range(REPEATS):
            ids = build(tokenizer.encode(CAPTION), tokenizer.encode("64*64"), grid)
        return ids.tolist()

    if by_string() != by_arithmetic():
        raise SystemExit("the two ways give other ids")
    return cpu_ratio(by_string, by_arithmetic) * REPEATS


def _public_string(grid: np.ndarray) -> str:
    rows = (
        "".join(f"<|visual token {code:0>6d}|>" for code in row) + "<|extra_200|>" for row in grid[0].tolist()
    )
    vision = "".join(rows) + "<|extra_201|>"
    return f"<|extra_203|>{CAPTION}<|image start|>64*64<|image token|>{vision}<|image end|><|extra_204|>"


@cache
def _public_encoding(ranks: Path) -> tiktoken.Encoding:
    lines = (line.split() for line in ranks.read_bytes().splitlines())
    table = {base64.b64decode(word): int(rank) for word, rank in lines}
    special = {f"<|extra_{number}|>": 151_646 + number for number in range(205)}
    special |= {"<|image token|>": 151_851, "<|image start|>": 151_852, "<|image end|>": 151_853}
    special |= {f"<|visual token {code:0>6d}|>": 151_854 + code for code in range(32_768)}
    return tiktoken.Encoding("public", pat_str=PATTERN, mergeable_ranks=table, special_tokens=special)
